from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.rpc.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from vitrail.rpc.slots import SLOTS, slot_of
from vitrail.server.database import Database
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.types_pb2 import Attributes, AttributeType, Value

ALL = (0, SLOTS)


@pytest.fixture
def uid(store: Store) -> int:
    return store.create_collection(Collection(name="c", dimension=2)).uid


def opened(directory: Path) -> Store:
    return Store(Database(str(directory)))


def record(record_id: str, vector: bytes | None = b"12345678", **attributes: Value) -> NewRecord:
    return NewRecord(record_id, attributes, vector=vector, thumbnail=b"small" if vector else b"")


def written(store: Store, *writes: Write) -> list[Written]:
    outcomes = store.write(writes)
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Written)]


def test_numbers_are_in_commit_order_without_gaps(store: Store, uid: int) -> None:
    """Each record and each tombstone takes the next number of its collection, over writes and transactions."""
    first, second = written(store, Write(uid, [record("a"), record("b")]), Write(uid, [record("c")]))
    assert (first.seq, second.seq) == (2, 3)
    (third,) = written(store, Write(uid, [record("a")], ["b", "never"]))
    assert (third.seq, third.deleted) == (5, 1)
    page = store.page(uid, ALL, 0, 10)
    assert page is not None
    assert [(row.id, row.seq, row.deleted) for row in page.rows] == [("c", 3, False), ("a", 4, False), ("b", 5, True)]
    assert page.head.seq == 5
    assert store.heads().collections == {uid: (2, 5)}


def test_a_write_of_nothing_takes_no_number(store: Store, uid: int) -> None:
    """Deleting what is not there is no change."""
    (outcome,) = written(store, Write(uid, deletes=["never"]))
    assert (outcome.seq, outcome.deleted) == (0, 0)


def test_of_an_id_that_comes_twice_the_last_counts(store: Store, uid: int) -> None:
    """One row and one number, with the last vector and attributes."""
    written(store, Write(uid, [record("a", b"11111111"), record("b"), record("a", b"22222222")]))
    assert store.get(uid, ["a"])["a"].vector == b"22222222"
    assert store.heads().collections == {uid: (2, 2)}


def test_attributes_change_alone(store: Store, uid: int) -> None:
    """Without a vector the record keeps its vector and thumbnail; one that is not there is reported."""
    written(store, Write(uid, [record("a", n=Value(integer_value=1))]))
    (outcome,) = written(store, Write(uid, [record("a", None, n=Value(integer_value=2)), record("b", None)]))
    assert outcome.missing == [1]
    kept = store.get(uid, ["a", "b"])
    assert kept.keys() == {"a"}
    assert (kept["a"].vector, kept["a"].thumbnail, kept["a"].seq) == (b"12345678", b"small", 2)
    assert Attributes.FromString(kept["a"].attributes).fields["n"].integer_value == 2


def test_a_deleted_record_needs_a_vector_to_come_back(store: Store, uid: int) -> None:
    """A tombstone keeps nothing that attributes alone could bring back."""
    written(store, Write(uid, [record("a")]), Write(uid, deletes=["a"]))
    (outcome,) = written(store, Write(uid, [record("a", None)]))
    assert outcome.missing == [0]
    written(store, Write(uid, [record("a")]))
    assert store.heads().collections[uid][0] == 1


def test_the_schema_is_fixed_by_the_first_value_and_widens(store: Store, uid: int) -> None:
    """An integer attribute takes a float and becomes one; a string is refused, and its neighbours are written."""
    records = [
        record("a", n=Value(integer_value=1)),
        record("b", n=Value(string_value="x"), new=Value(boolean_value=True)),
        record("c", n=Value(float_value=1.5)),
        record("d", n=Value(integer_value=1)),
    ]
    (outcome,) = written(store, Write(uid, records))
    assert {index: error.field for index, error in outcome.misfits.items()} == {1: "attributes.n"}
    assert outcome.catalog_changed
    ((_, (collection,)), count) = store.read_catalog(), store.heads().collections[uid][0]
    assert dict(collection.attributes) == {"n": AttributeType.ATTRIBUTE_TYPE_FLOAT}
    assert count == 3


def test_a_write_to_a_deleted_collection_leaves_its_neighbours(store: Store, uid: int) -> None:
    """In one transaction, one caller's collection is gone and the other's record is written."""
    other = store.create_collection(Collection(name="other", dimension=2)).uid
    store.delete_collection(uid)
    gone, kept = store.write([Write(uid, [record("a")]), Write(other, [record("a")])])
    assert isinstance(gone, NotFound)
    assert isinstance(kept, Written)
    assert store.page(uid, ALL, 0, 10) is None


def test_a_uid_is_never_used_again(store: Store, uid: int) -> None:
    """A collection of the same name is another one."""
    with pytest.raises(AlreadyExists):
        store.create_collection(Collection(name="c", dimension=2))
    store.delete_collection(uid)
    assert store.create_collection(Collection(name="c", dimension=2)).uid > uid


def test_a_cursor_of_another_history_is_not_known(store: Store, uid: int) -> None:
    """A place in the log is known by its mark, not by its number alone."""
    written(store, Write(uid, [record("a")]), Write(uid, [record("b")]))
    page = store.page(uid, ALL, 0, 10)
    assert page is not None
    assert store.knows(page.head)
    assert store.knows(Cursor(collection_uid=uid))
    assert not store.knows(Cursor(collection_uid=uid, seq=page.head.seq, mark=page.head.mark ^ 1))
    assert not store.knows(Cursor(collection_uid=uid, seq=99, mark=page.head.mark))


def test_only_the_asked_slots_are_in_a_page(store: Store, uid: int) -> None:
    """Two halves of the slots have each record once."""
    names = [f"r{n}" for n in range(50)]
    written(store, Write(uid, [record(name) for name in names]))
    halves = [store.page(uid, slots, 0, 100) for slots in ((0, 512), (512, 1024))]
    ids = [[row.id for row in half.rows] for half in halves if half]
    assert sorted(ids[0] + ids[1]) == sorted(names)
    assert all(slot_of(name) < 512 for name in ids[0])
    slot = slot_of("r1")
    narrow = [store.page(uid, slots, 0, 100) for slots in ((slot - 1, slot), (slot, slot + 1), (slot + 1, slot + 2))]
    assert ["r1" in [row.id for row in page.rows] for page in narrow if page] == [False, True, False]


def test_attributes_right_behind_their_record(store: Store, uid: int) -> None:
    """In one write, a change of attributes alone joins the record before it: one row with both."""
    (outcome,) = written(
        store, Write(uid, [record("a"), record("a", None, n=Value(integer_value=2)), record("b", None)])
    )
    assert (outcome.seq, outcome.missing) == (1, [2])
    found = store.get(uid, ["a"])["a"]
    assert (found.vector, found.thumbnail) == (b"12345678", b"small")
    assert Attributes.FromString(found.attributes).fields["n"].integer_value == 2


def test_a_record_is_replaced_whole(store: Store, uid: int) -> None:
    """A new vector comes with its own attributes, uri, hash and thumbnail, or with none."""
    first = NewRecord("a", {"n": Value(integer_value=1)}, "file:a", b"11111111", b"hash", b"small")
    written(store, Write(uid, [first]))
    found = store.get(uid, ["a"])["a"]
    assert (found.uri, found.content_hash, found.thumbnail) == ("file:a", b"hash", b"small")
    written(store, Write(uid, [NewRecord("a", {}, vector=b"22222222")]))
    found = store.get(uid, ["a"])["a"]
    assert (found.vector, found.uri, found.content_hash, found.thumbnail) == (b"22222222", "", b"", b"")
    assert found.attributes == b""


def test_deleting_an_id_twice_counts_once(store: Store, uid: int) -> None:
    """One tombstone, one number, one record less."""
    written(store, Write(uid, [record("a"), record("b")]))
    (outcome,) = written(store, Write(uid, deletes=["a", "a", "b", "a"]))
    assert (outcome.deleted, outcome.seq, store.heads().collections[uid]) == (2, 4, (0, 4))
    (again,) = written(store, Write(uid, deletes=["a"]))
    assert (again.deleted, again.seq, store.heads().collections[uid]) == (0, 0, (0, 4))


def test_what_was_written_after_its_deletion_was_decided_stays(store: Store, uid: int) -> None:
    """Each delete of a transaction is bounded by the `seq` at which its own ids were found."""
    written(store, Write(uid, [record("a"), record("b"), record("c"), record("d")]))
    written(store, Write(uid, [record("b", None)], ["c"]))
    early, late = written(
        store,
        Write(uid, deletes=["a", "b", "c", "never"], deletes_as_of=4),
        Write(uid, deletes=["b"], deletes_as_of=5),
    )
    assert (early.deleted, early.seq) == (1, 7)
    assert (late.deleted, late.seq) == (1, 8)
    assert store.heads().collections[uid] == (1, 8)
    assert store.get(uid, ["a", "b", "c", "d"]).keys() == {"d"}


def test_records_are_listed_by_id(store: Store, uid: int) -> None:
    """In the order of their bytes, page by page, without what was deleted and without other collections."""
    names = ["ü", "b", "a", "Z", "日", "c", "aa"]
    other = store.create_collection(Collection(name="other", dimension=2)).uid
    written(store, Write(uid, [record(name) for name in names], []), Write(other, [record("ab")]))
    written(store, Write(uid, deletes=["c"]))
    found: list[str] = []
    while page := store.list(uid, found[-1] if found else "", 2):
        found += [one.id for one in page]
    assert found == ["Z", "a", "aa", "b", "ü", "日"]


def test_many_ids_at_once(store: Store, uid: int) -> None:
    """More ids than one query of SQLite takes."""
    names = [f"r{n:04}" for n in range(1201)]
    written(store, Write(uid, [record(name) for name in names]))
    assert store.get(uid, [*names, "never"]).keys() == set(names)
    (outcome,) = written(store, Write(uid, [record(name, None) for name in names], ["never"]))
    assert (outcome.missing, outcome.seq) == ([], 2402)
    (outcome,) = written(store, Write(uid, deletes=names))
    assert outcome.deleted == 1201


def test_a_write_that_fails_takes_its_transaction_with_it(store: Store, uid: int) -> None:
    """Nothing of a transaction is kept that was not committed: neither rows nor numbers nor the schema."""
    catalog = store.read_catalog()
    no_text = record("\ud800", n=Value(integer_value=1))
    with pytest.raises(UnicodeEncodeError):
        store.write([Write(uid, [record("a", m=Value(integer_value=1))]), Write(uid, [no_text])])
    assert (store.list(uid, "", 10), store.heads().collections, store.read_catalog()) == ([], {uid: (0, 0)}, catalog)


def test_a_store_is_opened_once(tmp_path: Path) -> None:
    """A second one is refused while the first lives, and finds everything afterwards."""
    store = opened(tmp_path)
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    gone = store.create_collection(Collection(name="gone", dimension=2)).uid
    written(store, Write(uid, [record("a", n=Value(integer_value=1)), record("b")], ["b"]))
    store.delete_collection(gone)
    page, catalog = store.page(uid, ALL, 0, 10), store.read_catalog()
    with pytest.raises(OSError, match="another coordinator"):
        opened(tmp_path)
    store.close()
    again = opened(tmp_path)
    assert page is not None
    assert (again.page(uid, ALL, 0, 10), again.read_catalog()) == (page, catalog)
    assert again.knows(page.head)
    assert written(again, Write(uid, [record("c")]))[0].seq == page.head.seq + 1
    assert again.create_collection(Collection(name="gone", dimension=2)).uid > gone
    again.close()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    """A file that is no database is Unavailable and left as it is, unlocked."""
    file = tmp_path / "records.sqlite"
    file.write_bytes(b"no database" * 1000)
    with closing(opened(tmp_path)) as store, pytest.raises(Unavailable, match="not a database"):
        store.heads()
    assert file.read_bytes() == b"no database" * 1000


def test_a_collection_is_changed_as_the_last_commit_left_it(store: Store, uid: int) -> None:
    """What a write has fixed meanwhile is there when the definition changes, and stays."""
    written(store, Write(uid, [record("a", n=Value(integer_value=1))]))

    def change(collection: Collection) -> None:
        assert dict(collection.attributes) == {"n": AttributeType.ATTRIBUTE_TYPE_INTEGER}
        collection.train_at = 50

    changed = store.update_collection(uid, change)
    assert (changed.uid, changed.name, changed.train_at) == (uid, "c", 50)
    assert store.read_catalog()[1] == [changed]
    assert dict(changed.attributes) == {"n": AttributeType.ATTRIBUTE_TYPE_INTEGER}


def test_a_change_that_is_refused_is_none(store: Store, uid: int) -> None:
    """Nothing is written where the change itself raises, or where the collection is gone."""
    before = store.read_catalog()

    def refuse(collection: Collection) -> None:
        collection.train_at = 50
        raise FailedPrecondition("no")

    with pytest.raises(FailedPrecondition):
        store.update_collection(uid, refuse)
    with pytest.raises(NotFound):
        store.update_collection(uid + 1, lambda _: None)
    assert store.read_catalog() == before


def test_the_catalog_has_its_own_numbers(store: Store) -> None:
    """Each change of it takes the next one; writes of records that change no schema take none."""
    numbers = [store.read_catalog()[0]]
    uid = store.create_collection(Collection(name="x", dimension=2)).uid
    numbers.append(store.read_catalog()[0])
    written(store, Write(uid, [record("a", n=Value(integer_value=1))]))
    numbers.append(store.read_catalog()[0])
    written(store, Write(uid, [record("b", n=Value(integer_value=2)), record("c")], ["a"]))
    assert store.read_catalog()[0] == numbers[-1]
    store.delete_collection(uid)
    numbers.append(store.read_catalog()[0])
    assert numbers == [numbers[0] + step for step in range(4)]


def test_deleting_a_collection_takes_its_records_alone(store: Store, uid: int) -> None:
    """Its rows and its places in the log are gone, those of others are not."""
    other = store.create_collection(Collection(name="other", dimension=2)).uid
    written(store, Write(uid, [record("a")]), Write(other, [record("a")]))
    pages = {each: store.page(each, ALL, 0, 10) for each in (uid, other)}
    store.delete_collection(uid)
    assert not store.get(uid, ["a"])
    assert not store.list(uid, "", 10)
    assert set(store.heads().collections) == {other}
    assert store.page(other, ALL, 0, 10) == pages[other]
    assert [page is not None and store.knows(page.head) for page in pages.values()] == [False, True]


STEPS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["put", "change", "delete"])), max_size=6),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 4), slots=st.sampled_from([ALL, (0, 512), (512, 1024)]))
def test_paging_while_others_write_gives_the_snapshot_of_the_last_page(
    store: Store, steps: list[list[tuple[str, str]]], limit: int, slots: tuple[int, int]
) -> None:
    """Whatever is written between pages, once one comes back short the follower holds what a dictionary does."""
    uid = store.create_collection(Collection(name=f"c{store.read_catalog()[0]}", dimension=2)).uid
    truth: dict[str, tuple[bytes, int]] = {}
    held: dict[str, tuple[bytes, int]] = {}
    after, seq, waiting = 0, 0, list(steps)

    def write(name: str, how: str) -> None:
        nonlocal seq
        vector = b"%08d" % seq if how == "put" else truth.get(name, (None, 0))[0]
        (outcome,) = written(
            store,
            Write(uid, deletes=[name])
            if how == "delete"
            else Write(uid, [record(name, vector if how == "put" else None)]),
        )
        if vector is None:  # neither a vector nor a record that has one
            assert outcome.seq == 0
            return
        seq += 1
        assert outcome.seq == seq
        truth[name] = (vector, seq)
        if how == "delete":
            del truth[name]

    while True:
        page = store.page(uid, slots, after, limit)
        assert page is not None
        for row in page.rows:
            assert row.seq > after
            after = row.seq
            held[row.id] = (row.vector, row.seq)
            if row.deleted:
                del held[row.id]
        if len(page.rows) < limit:
            assert held == {name: row for name, row in truth.items() if slots[0] <= slot_of(name) < slots[1]}
            assert (page.head.seq, store.heads().collections[uid]) == (seq, (len(truth), seq))
            assert store.knows(page.head)
            if not waiting:
                break
        for step in waiting.pop() if waiting else []:
            write(*step)


def test_content_is_read_where_it_is_asked_for(store: Store, uid: int) -> None:
    """Vectors and thumbnails are the bulk of a row; who wants neither gets the rest."""
    written(store, Write(uid, [record("a")]))
    for found in (store.get(uid, ["a"], vectors=False, thumbnails=False)["a"], *store.list(uid, "", 1, vectors=False)):
        assert (found.id, found.seq, found.vector) == ("a", 1, b"")
    assert store.get(uid, ["a"], vectors=False)["a"].thumbnail == b"small"
    assert store.get(uid, ["a"], thumbnails=False)["a"].vector == b"12345678"
