"""Versions of a collection in the store: written together, filled, flipped and flipped back."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.postgres import Postgres
from vitrail.rpc.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Attributes, AttributeType, Value

ALL = (0, SLOTS)
OLD, NEW = b"11111111", b"222222222222"
"""Vectors of two dimensions, and of three."""


@pytest.fixture
def one(store: Store) -> int:
    """A collection with two records, by its uid."""
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    write(store, Write(uid, [record("a"), record("b")]))
    return uid


@pytest.fixture
def two(store: Store, one: int) -> int:
    """Another version of it."""
    return store.create_version(Collection(name="c", dimension=3)).uid


def record(record_id: str, vector: bytes | None = OLD, n: int = 0, **more: object) -> NewRecord:
    return NewRecord(record_id, {"n": Value(integer_value=n)}, f"file:{record_id}", vector, **more)  # type: ignore[arg-type]


def write(store: Store, request: Write) -> Written:
    (outcome,) = store.write([request])
    assert isinstance(outcome, Written)
    return outcome


def fill(store: Store, uid: int, vector: bytes = NEW) -> list[str]:
    """Fill all that is pending; the ids."""
    found = store.list(uid, "", 1000, pending=True)
    outcome = write(store, Write(uid, [NewRecord(each.id, {}, vector=vector, fills=each.seq) for each in found]))
    assert not outcome.outdated
    return [each.id for each in found]


def vectors(store: Store, uid: int) -> dict[str, bytes]:
    return {each.id: each.vector for each in store.list(uid, "", 1000)}


def numbers(store: Store, uid: int) -> dict[str, int]:
    """The attribute of each record."""
    return {
        each.id: Attributes.FromString(each.attributes).fields["n"].integer_value for each in store.list(uid, "", 1000)
    }


def in_log(store: Store, uid: int) -> dict[str, bytes]:
    """The vectors that a follower from 0 ends with."""
    page = store.page(uid, ALL, 0, 1000)
    assert page is not None
    assert store.knows(page.head)
    assert [row.seq for row in page.rows] == sorted(row.seq for row in page.rows)
    return {row.id: row.vector for row in page.rows if not row.deleted}


def test_a_new_version_has_all_records_pending(store: Store, one: int, two: int) -> None:
    """With everything but their vectors; who follows its log has none of them yet, and the old version goes on."""
    assert vectors(store, one) == {"a": OLD, "b": OLD}
    assert vectors(store, two) == {"a": b"", "b": b""}
    assert [(each.pending, each.uri, each.seq) for each in store.list(two, "", 9)] == [
        (True, "file:a", 3),
        (True, "file:b", 4),
    ]
    assert (in_log(store, one), in_log(store, two)) == ({"a": OLD, "b": OLD}, {})
    assert store.pending([one, two]) == {one: 0, two: 2}
    assert store.heads().collections == {one: (2, 2), two: (2, 4)}
    _, found = store.read_catalog()
    assert [(each.uid, each.name, each.version, each.serves) for each in found] == [
        (one, "c", 1, True),
        (two, "c", 2, False),
    ]


def test_a_version_of_an_empty_collection(store: Store) -> None:
    """Nothing is pending, so that it can serve at once."""
    store.create_collection(Collection(name="empty", dimension=2))
    made = store.create_version(Collection(name="empty", dimension=3))
    assert store.activate_version("empty", 2).uid == made.uid
    assert store.heads().collections[made.uid] == (0, 0)


def test_what_is_deleted_is_not_copied(store: Store, one: int) -> None:
    """A new version begins with live records alone."""
    write(store, Write(one, deletes=["a"]))
    two = store.create_version(Collection(name="c", dimension=3)).uid
    page = store.page(two, ALL, 0, 10)
    assert page is not None
    assert [row.id for row in page.rows] == ["b"]


def test_a_write_goes_to_all_versions_with_one_number(store: Store, one: int, two: int) -> None:
    """Its vector to one, pending in the other; attributes alone keep both vectors; what is deleted is so in both."""
    fill(store, two)
    assert write(store, Write(one, [record("a", n=1), record("new")])).seq == 8
    assert (vectors(store, one), vectors(store, two)) == (
        {"a": OLD, "b": OLD, "new": OLD},
        {"a": b"", "b": NEW, "new": b""},
    )
    assert in_log(store, two) == {"b": NEW}  # an outdated vector is found by nobody
    assert write(store, Write(one, [record("b", None, n=2)])).seq == 9
    assert (vectors(store, one)["b"], vectors(store, two)["b"]) == (OLD, NEW)
    assert numbers(store, one) == numbers(store, two) == {"a": 1, "b": 2, "new": 0}
    assert write(store, Write(two, deletes=["b", "never"])).deleted == 1
    assert vectors(store, one).keys() == vectors(store, two).keys() == {"a", "new"}
    assert store.heads().collections == {one: (2, 10), two: (2, 10)}


def test_a_write_that_brings_vectors_of_both(store: Store, one: int, two: int) -> None:
    """As an image does that is embedded for each: nothing is pending."""
    write(store, Write(one, [record("a", others={two: NEW}), record("a", None, n=5)]))
    assert (vectors(store, one)["a"], vectors(store, two)["a"]) == (OLD, NEW)
    assert numbers(store, two)["a"] == 5
    assert store.pending([two]) == {two: 1}


def test_what_fills_is_never_older_than_what_was_written(store: Store, one: int, two: int) -> None:
    """A vector that was made of what a record was is refused once it is another; and so is a second one."""
    (a, b) = store.list(two, "", 9, pending=True)
    write(store, Write(one, [record("a", n=1)]))
    fills = [NewRecord(each.id, {"n": Value(integer_value=9)}, vector=NEW, fills=each.seq) for each in (a, b)]
    outcome = write(store, Write(two, [*fills, NewRecord("never", {}, vector=NEW, fills=3)]))
    assert (outcome.outdated, outcome.seq) == ([0, 2], 6)
    assert (vectors(store, one), vectors(store, two)) == ({"a": OLD, "b": OLD}, {"a": b"", "b": NEW})
    assert numbers(store, two) == {"a": 1, "b": 0}  # a fill changes nothing but the vector
    assert store.get(two, ["b"])["b"].uri == "file:b"
    assert write(store, Write(two, fills)).outdated == [0, 1]
    write(store, Write(one, deletes=["a"]))
    assert write(store, Write(two, fills)).outdated == [0, 1]
    assert store.pending([two]) == {two: 0}


def test_what_fills_is_of_the_same_image(store: Store, one: int, two: int) -> None:
    """Where it is known; a vector says nothing of it, and what was given as a vector takes any."""
    write(store, Write(one, [record("a", content_hash=b"first")]))
    a, b = store.list(two, "", 9, pending=True)
    assert write(store, Write(two, [NewRecord("a", {}, "", NEW, b"other", fills=a.seq)])).outdated == [0]
    outcome = write(
        store,
        Write(
            two, [NewRecord("a", {}, "", NEW, b"first", fills=a.seq), NewRecord("b", {}, "", NEW, b"x", fills=b.seq)]
        ),
    )
    assert not outcome.outdated
    assert [each.content_hash for each in store.list(two, "", 9)] == [b"first", b"x"]


def test_flip_and_flip_back(store: Store, one: int, two: int) -> None:
    """Not before all vectors are there; afterwards the first is a version like the other was."""
    with pytest.raises(FailedPrecondition, match="2 vectors of version 2 are pending"):
        store.activate_version("c", 2)
    fill(store, two)
    before, _ = store.read_catalog()
    assert store.activate_version("c", 2).serves
    after, found = store.read_catalog()
    assert after > before
    assert [each.serves for each in found] == [False, True]
    write(store, Write(two, [record("new", NEW)]))
    with pytest.raises(FailedPrecondition, match="1 vectors"):
        store.activate_version("c", 1)
    assert fill(store, one, OLD) == ["new"]
    store.activate_version("c", 1)
    assert vectors(store, one) == dict.fromkeys(("a", "b", "new"), OLD)
    assert [each.serves for each in store.read_catalog()[1]] == [True, False]


def test_a_write_that_comes_after_the_flip_is_made_again(store: Store, one: int, two: int) -> None:
    """Who still took the other version to serve is told, unless the vectors of both are there: none is ever pending
    in what serves.
    """
    fill(store, two)
    store.activate_version("c", 2)
    (late,) = store.write([Write(one, [record("late")])])
    assert isinstance(late, Unavailable)
    assert late.retry_after
    assert vectors(store, one).keys() == {"a", "b"}
    write(store, Write(one, [record("late", others={two: NEW})]))
    write(store, Write(one, [record("a", None, n=3)], ["b"]))
    assert vectors(store, two) == {"a": NEW, "late": NEW}
    assert numbers(store, two)["a"] == 3


def test_what_is_deleted_of_versions(store: Store, one: int, two: int) -> None:
    """Any that does not serve; its number and uid are never given again, and who writes to it is told."""
    with pytest.raises(FailedPrecondition, match="serves"):
        store.delete_version("c", 1)
    store.delete_version("c", 2)
    assert isinstance(store.write([Write(two, deletes=["a"])])[0], NotFound)
    for number in (2, 3):
        with pytest.raises(NotFound):
            store.activate_version("c", number)
        with pytest.raises(NotFound):
            store.delete_version("c", number)
    again = store.create_version(Collection(name="c", dimension=3))
    assert (again.version, again.uid > two) == (3, True)
    assert vectors(store, one) == {"a": OLD, "b": OLD}


def test_a_collection_goes_with_all_its_versions(store: Store, one: int, two: int) -> None:
    """Whichever is named; the name is free again, and its first version is 1."""
    with pytest.raises(AlreadyExists):
        store.create_collection(Collection(name="c", dimension=2))
    store.delete_collection(two)
    assert store.read_catalog()[1] == []
    assert (vectors(store, one), vectors(store, two)) == ({}, {})
    with pytest.raises(NotFound):
        store.create_version(Collection(name="c", dimension=2))
    again = store.create_collection(Collection(name="c", dimension=2))
    assert (again.version, again.serves, again.uid > two) == (1, True, True)


def test_all_versions_have_one_schema(store: Store, one: int, two: int) -> None:
    """What is fixed by a write to one, or declared of one, is so in all; and what misfits one, misfits all."""
    write(store, Write(one, [NewRecord("a", {"s": Value(string_value="x")}, vector=OLD)]))

    def change(collection: Collection) -> None:
        collection.attributes["f"] = AttributeType.ATTRIBUTE_TYPE_FLOAT
        collection.train_at = 99

    store.update_collection(two, change)
    first, second = store.read_catalog()[1]
    assert first.attributes == second.attributes
    assert set(first.attributes) == {"n", "s", "f"}
    assert (first.train_at, second.train_at) == (0, 99)
    (outcome,) = store.write([Write(two, [NewRecord("a", {"s": Value(integer_value=1)})])])
    assert isinstance(outcome, Written)
    assert set(outcome.misfits) == {0}


def test_kept_images(store: Store) -> None:
    """They are there as long as their record is of that image, and the collection keeps them."""
    one = store.create_collection(Collection(name="c", dimension=2, keep_images=True)).uid
    write(store, Write(one, [record(name, image=name.encode()) for name in "abcd"]))
    two = store.create_version(Collection(name="c", dimension=3)).uid
    assert [each.keep_images for each in store.read_catalog()[1]] == [True, True]
    write(store, Write(one, [record("a", image=b"new"), record("b"), record("c", None)], ["d"]))
    assert store.images("c", list("abcd")) == {"a": b"new", "c": b"c"}
    fill(store, two)
    assert store.images("c", list("abcd")) == {"a": b"new", "c": b"c"}

    def keep_none(collection: Collection) -> None:
        collection.keep_images = False

    store.update_collection(two, keep_none)
    assert store.images("c", list("abcd")) == {}
    write(store, Write(one, [record("a", image=b"more")]))
    assert store.images("c", ["a"]) == {}


def test_the_images_of_a_collection_go_with_it(store: Store) -> None:
    """One that takes its name has none of them."""
    kept = Collection(name="c", dimension=2, keep_images=True)
    uid = store.create_collection(kept).uid
    write(store, Write(uid, [record("a", image=b"a")]))
    store.delete_collection(uid)
    write(store, Write(store.create_collection(kept).uid, [record("a")]))
    assert store.images("c", ["a"]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_both_versions_have_it(store: Store, seed: int) -> None:
    """Through versions made, filled, flipped back and forth and deleted: each holds what a dictionary does."""
    chance = random.Random(seed)
    serving = store.create_collection(Collection(name="c", dimension=2)).uid
    other: int | None = None
    truth: dict[str, tuple[bytes, int]] = {}
    filled: dict[str, bytes] = {}

    def check() -> None:
        assert (
            vectors(store, serving) == in_log(store, serving) == {name: vector for name, (vector, _) in truth.items()}
        )
        assert numbers(store, serving) == {name: n for name, (_, n) in truth.items()}
        if other is not None:
            assert vectors(store, other) == {name: filled.get(name, b"") for name in truth}
            assert in_log(store, other) == filled
            assert numbers(store, other) == numbers(store, serving)

    for step in range(80):
        vector, name = b"%08d" % step, f"r{chance.randrange(8)}"
        match chance.choice(["put", "put", "attributes", "delete", "make", "fill", "fill", "flip", "drop"]):
            case "put":
                write(store, Write(serving, [record(name, vector, step)]))
                truth[name] = (vector, step)
                filled.pop(name, None)
            case "attributes" if name in truth:
                write(store, Write(serving, [record(name, None, step)]))
                truth[name] = (truth[name][0], step)
            case "delete":
                write(store, Write(chance.choice([serving, other or serving]), deletes=[name]))
                truth.pop(name, None)
                filled.pop(name, None)
            case "make" if other is None:
                other = store.create_version(Collection(name="c", dimension=2)).uid
            case "fill" if other is not None:
                filled |= dict.fromkeys(fill(store, other, vector), vector)
            case "flip" if other is not None and filled.keys() == truth.keys():
                number = next(each.version for each in store.read_catalog()[1] if each.uid == other)
                store.activate_version("c", number)
                truth, filled = (
                    {name: (filled[name], n) for name, (_, n) in truth.items()},
                    {name: vector for name, (vector, _) in truth.items()},
                )
                serving, other = other, serving
            case "drop" if other is not None and chance.random() < 0.3:
                number = next(each.version for each in store.read_catalog()[1] if each.uid == other)
                store.delete_version("c", number)
                other, filled = None, {}
        check()


@pytest.fixture
def stores(postgres: Postgres) -> Iterator[tuple[Store, Store]]:
    url = postgres.new_database()
    pair = Store(Database(url)), Store(Database(url))
    yield pair
    for store in pair:
        store.close()


def is_flipped(store: Store, number: int, old: int, new: int) -> bool:
    """Fill what is pending with what serves, and flip unless more is pending by then."""
    waiting = store.list(new, "", 1000, pending=True)
    content = store.get(old, [each.id for each in waiting])
    # A vector that is newer than the record was when it was listed is refused by its seq, as an older one is.
    fills = [
        NewRecord(each.id, {}, vector=content[each.id].vector, fills=each.seq) for each in waiting if each.id in content
    ]
    write(store, Write(new, fills))
    try:
        store.activate_version("c", number)
    except FailedPrecondition:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_writers_while_another_coordinator_makes_and_flips_versions(stores: tuple[Store, Store], seed: int) -> None:
    """Each write is in all versions that there are when it commits, and none is pending in what serves."""
    writing, changing = stores
    uids = [changing.create_collection(Collection(name="c", dimension=2)).uid]
    ended, until = threading.Event(), time.monotonic() + 60

    def keep_writing(number: int) -> dict[str, bytes]:
        chance, truth = random.Random(seed * 10 + number), dict[str, bytes]()
        step = 0
        while not ended.is_set():
            step += 1
            name, vector = f"w{number}-{chance.randrange(20)}", b"%08d" % step
            serving = next(each.uid for each in writing.read_catalog()[1] if each.serves)
            deleting = chance.random() < 0.3
            request = Write(serving, deletes=[name]) if deleting else Write(serving, [record(name, vector)])
            (outcome,) = writing.write([request])
            time.sleep(chance.random() * 0.04)
            if isinstance(outcome, Written):  # else the version was flipped or deleted since it was looked up
                truth[name] = vector
                if deleting:
                    del truth[name]
        return truth

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(keep_writing, number) for number in range(3)]
        try:
            for number in range(2, 7):
                uids.append(changing.create_version(Collection(name="c", dimension=2)).uid)
                while not is_flipped(changing, number, *uids[-2:]):
                    assert time.monotonic() < until
                if number % 2:
                    changing.delete_version("c", number - 1)
        finally:
            ended.set()
        truth: dict[str, bytes] = {}
        for writer in writers:
            truth |= writer.result()
    assert vectors(writing, uids[-1]) == in_log(writing, uids[-1]) == truth
    assert truth
    for version in writing.read_catalog()[1]:
        assert vectors(writing, version.uid).keys() == truth.keys()
        assert in_log(writing, version.uid).items() <= truth.items()


def test_a_store_of_before_there_were_versions(tmp_path: Path) -> None:
    """Its collections are the first versions of their names; the uid of one that was deleted is not given again."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'records.sqlite'}")
    config = Config()
    config.set_main_option("script_location", "vitrail.server:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for uid, name in enumerate(("kept", "gone"), 1):
            connection.execute(
                sa.text("INSERT INTO collections VALUES (:uid, :name, :definition, 0, 0, 0)"),
                {"uid": uid, "name": name, "definition": Collection(name=name, dimension=2).SerializeToString()},
            )
        connection.execute(sa.text("DELETE FROM collections WHERE uid = 2"))
    engine.dispose()
    store = Store(Database(str(tmp_path)))
    assert [(each.uid, each.version, each.serves) for each in store.read_catalog()[1]] == [(1, 1, True)]
    assert store.create_collection(Collection(name="new", dimension=2)).uid == 3
    assert store.create_version(Collection(name="kept", dimension=2)).version == 2
    with pytest.raises(AlreadyExists):
        store.create_collection(Collection(name="kept", dimension=2))
    store.close()
