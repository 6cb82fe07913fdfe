"""Deleting for good in the store, and what followers are told who were not told of a tombstone in time."""

import time

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database
from vitrail.server.log import Told
from vitrail.server.store import NewRecord, Page, Store, Write, Written
from vitrail.server.tables import commits, records
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor

ALL = (0, SLOTS)


@pytest.fixture
def uid(store: Store) -> int:
    return store.create_collection(Collection(name="c", dimension=2)).uid


def write(store: Store, uid: int, *puts: str, deletes: str = "") -> int:
    """Write records that are named by letters; returns the `seq`."""
    new = [NewRecord(name, {}, vector=b"12345678") for name in puts]
    (written,) = store.write([Write(uid, new, list(deletes))])
    assert isinstance(written, Written)
    return written.seq


def page(store: Store, uid: int, after: int = 0, limit: int = 100, place: Cursor | None = None) -> Page:
    found = store.page(uid, ALL, after, limit, place)
    assert found is not None
    return found


def purge(store: Store, uid: int, up_to: int) -> None:
    while store.purge(uid, up_to):
        pass


def now() -> int:
    return time.time_ns() // 1000


def test_tombstones_are_purged_up_to_a_seq(store: Store, uid: int) -> None:
    """Those above it stay, and so does every record."""
    other = store.create_collection(Collection(name="other", dimension=2)).uid
    for each in (uid, other):
        write(store, each, "a", "b", "c")
        write(store, each, deletes="a")
        write(store, each, deletes="b")
    before = page(store, other)
    purge(store, uid, 4)
    found = page(store, uid)
    assert [(row.id, row.deleted) for row in found.rows] == [("c", False), ("b", True)]
    assert (found.purged, found.head.seq, store.heads().collections[uid]) == (4, 5, (1, 5))
    assert page(store, other) == before
    write(store, uid, "a")
    assert [row.id for row in page(store, uid).rows] == ["c", "b", "a"]


def test_purging_goes_step_by_step(store: Store, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write in between; the place up to which it went is true after each step, and it may be asked again."""
    monkeypatch.setattr("vitrail.server.store.PURGE_ROWS", 2)
    write(store, uid, *"abcdefg")
    write(store, uid, deletes="abcde")  # 8 to 12
    seen = []
    while store.purge(uid, 12):
        found = page(store, uid)
        seen.append((found.purged, [row.seq for row in found.rows if row.deleted]))
    assert seen == [(9, [10, 11, 12]), (11, [12])]
    assert (page(store, uid).purged, len(page(store, uid).rows)) == (12, 2)
    assert not store.purge(uid, 12)
    assert not store.purge(uid, 5)
    assert page(store, uid).purged == 12
    assert not store.purge(uid + 1, 5)


def test_what_the_log_ended_with_at_a_moment(store: Store, uid: int) -> None:
    """The last transaction before it; none where all were later."""
    moments = [now()]
    for name in "abc":
        write(store, uid, name)
        time.sleep(0.002)
        moments.append(now())
    assert [store.end_at(uid, moment) for moment in moments] == [0, 1, 2, 3]
    assert store.end_at(uid + 1, now()) == 0


def test_marks_are_forgotten_but_for_the_last(store: Store, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place from before is not known any more; the one that a follower is at who is up to date always is."""
    monkeypatch.setattr("vitrail.server.store.PURGE_ROWS", 2)
    places = []
    for name in "abcdef":
        write(store, uid, name)
        places.append(page(store, uid).head)
    while store.forget_marks(uid, 6):
        pass
    assert [store.knows(place) for place in places] == [False] * 5 + [True]
    assert [page(store, uid, place=place).knows_place for place in places] == [False] * 5 + [True]


def test_tombstones_are_found_without_looking_at_records(store: Store, uid: int) -> None:
    """Purging nothing costs nothing, however many records there are."""
    c = records.c
    query = sa.select(c.seq).where(c.collection_uid == uid, c.deleted, c.seq <= 5).order_by(c.seq).limit(1)
    with store._database.transaction() as connection:
        dialect = connection.dialect
        text = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        if dialect.name == "sqlite":
            plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}")).all()
        else:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))  # which a table of no rows would get
            plan = connection.execute(sa.text(f"EXPLAIN {text}")).all()
    assert "tombstones" in str(plan)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.text("abcdef", max_size=3), st.text("abcdef", max_size=3)),
        st.tuples(st.just("purge"), st.floats(0, 1)),
        st.tuples(st.just("page")),
        st.tuples(st.just("come again")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 3))
def test_no_deleted_record_stays_with_a_follower(store: Store, steps: list[tuple[str, object]], limit: int) -> None:
    """Whatever is written and purged between its pages: where a follower is complete, it holds what the store does."""
    uid = store.create_collection(Collection(name=f"c{store.read_catalog()[0]}", dimension=2)).uid
    held: dict[str, int] = {}
    told = Told(None)

    def take_page() -> bool:
        nonlocal told
        found = page(store, uid, told.after, limit, told.place)
        if not told.suffices(found):
            held.clear()
            told = Told(None)
            return False
        for row in found.rows:
            held[row.id] = row.seq
            if row.deleted:
                del held[row.id]
        told.take(found)
        if len(found.rows) < limit:
            told = Told(found.head)
            assert held == {record.id: record.seq for record in store.list(uid, "", 100)}
            return True
        return False

    for what, *arguments in steps:
        match what, arguments:
            case "write", (str(puts), str(deletes)):
                write(store, uid, *puts, deletes=deletes)
            case "purge", (float(share),):
                purge(store, uid, round(share * store.heads().collections[uid][1]))
            case "page", _:
                take_page()
            case "come again", _:  # the stream broke: it goes on from where it was complete, whatever else it holds
                told = Told(told.complete or Cursor(collection_uid=uid))
    while not take_page():
        pass


def test_a_migration_keeps_what_was_there(location: str) -> None:
    """Transactions of before count as made when it ran, so that no follower is thrown out by the first purge."""
    store = Store(Database(location))
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    write(store, uid, "a")
    with store._database.transaction() as connection:
        for statement in (
            "DROP INDEX tombstones",
            "ALTER TABLE commits DROP COLUMN committed_at",
            "ALTER TABLE collections DROP COLUMN purged",
            "UPDATE alembic_version SET version_num = '0003'",
        ):
            connection.execute(sa.text(statement))
    store.close()
    began = now()
    store = Store(Database(location))
    assert store.end_at(uid, began) == 0
    assert store.end_at(uid, now() + 1) == 1
    with store._database.transaction() as connection:
        assert connection.execute(sa.select(commits.c.committed_at)).scalar_one() >= began
    assert page(store, uid).purged == 0
    write(store, uid, deletes="a")
    purge(store, uid, 2)
    assert not page(store, uid).rows
    store.close()
