from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.rpc.errors import AlreadyExists, NotFound
from vitrail.rpc.slots import SLOTS, slot_of
from vitrail.server.store import NewRecord, Store, Write, Written
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.types_pb2 import Attributes, AttributeType, Value

ALL = (0, SLOTS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def uid(store: Store) -> int:
    return store.create_collection(Collection(name="c", dimension=2)).uid


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
    assert store.heads() == {uid: (2, 5)}


def test_a_write_of_nothing_takes_no_number(store: Store, uid: int) -> None:
    """Deleting what is not there is no change."""
    (outcome,) = written(store, Write(uid, deletes=["never"]))
    assert (outcome.seq, outcome.deleted) == (0, 0)


def test_of_an_id_that_comes_twice_the_last_counts(store: Store, uid: int) -> None:
    """One row and one number, with the last vector and attributes."""
    written(store, Write(uid, [record("a", b"11111111"), record("b"), record("a", b"22222222")]))
    assert store.get(uid, ["a"])["a"].vector == b"22222222"
    assert store.heads() == {uid: (2, 2)}


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
    assert store.heads()[uid][0] == 1


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
    ((_, (collection,)), count) = store.read_catalog(), store.heads()[uid][0]
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


def test_a_store_is_opened_by_one_process_and_keeps_everything(tmp_path: Path) -> None:
    """A second one is refused while the first lives, and finds all of it afterwards."""
    store = Store(tmp_path)
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    written(store, Write(uid, [record("a")]))
    with pytest.raises(OSError, match="another coordinator"):
        Store(tmp_path)
    store.close()
    again = Store(tmp_path)
    assert [found.id for found in again.list(uid, "", 10)] == ["a"]
    again.close()


CHANGES = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(CHANGES, max_size=8), limit=st.integers(1, 4))
def test_a_follower_that_pages_while_others_write_has_the_snapshot_of_its_last_page(
    store: Store, rounds: list[list[tuple[str, bool]]], limit: int
) -> None:
    """Whatever is written between pages, once a page comes back short the follower holds exactly the store."""
    uid = store.create_collection(Collection(name=f"c{store.read_catalog()[0]}", dimension=2)).uid
    held: dict[str, bytes] = {}
    after, version, waiting = 0, 0, list(rounds)
    while True:
        page = store.page(uid, ALL, after, limit)
        assert page is not None
        for row in page.rows:
            after = row.seq
            if row.deleted:
                held.pop(row.id, None)
            else:
                held[row.id] = row.vector
        if len(page.rows) < limit:
            assert held == {found.id: found.vector for found in store.list(uid, "", 100)}
            assert page.head.seq == store.heads()[uid][1]
            if not waiting:
                return
        if waiting:
            for name, present in waiting.pop():
                version += 1
                change = Write(uid, [record(name, b"%08d" % version)]) if present else Write(uid, deletes=[name])
                written(store, change)
