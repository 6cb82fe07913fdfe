"""Deleting for good in the store, and what followers are told who were not told of a tombstone in time."""

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Postgres
from tests.server.fakes import PATIENCE, FakeShard, in_time, serving
from vitrail.rpc.errors import FailedPrecondition, NotFound, Unavailable
from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database
from vitrail.server.journal import Journal
from vitrail.server.log import Told
from vitrail.server.purging import Purging
from vitrail.server.store import Page, Store
from vitrail.server.tables import commits, records
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection, PurgeCollectionResponse
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
            "ALTER TABLE collections DROP COLUMN clean",
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


def test_a_store_that_was_restored_from_an_older_backup(
    request: pytest.FixtureRequest, location: str, tmp_path: Path
) -> None:
    """And written to since, as far: what is of the history that is gone is not known."""
    store = Store(Database(location))
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    write(store, uid, "a")
    common = page(store, uid).head
    store.close()
    if location == str(tmp_path):
        backup = str(shutil.copytree(tmp_path, tmp_path / "backup"))
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        backup = postgres.new_database(like=location)
    store, restored = Store(Database(location)), Store(Database(backup))
    (lost,) = store.write([Write(uid, [NewRecord("lost", {}, vector=b"12345678")])])
    assert isinstance(lost, Written)
    place = page(store, uid).head
    assert store.knows_write(uid, lost.seq, lost.mark)
    for name in "bcd":
        write(restored, uid, name)
    found = page(restored, uid, place.seq, place=place)
    assert (place.seq, found.head.seq, found.knows_place) == (2, 4, False)
    assert not restored.knows_write(uid, lost.seq, lost.mark)
    assert page(restored, uid, common.seq, place=common).knows_place
    store.close()
    restored.close()


NEEDLES = ["an-id-of-mine", "uri-of-mine", "vector of mine", "replaced-id", "uri-replaced", "other-id", "its vector"]


def found_in(directory: Path, needles: list[str]) -> list[str]:
    """Those that lie in a file somewhere in a directory."""
    content = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return [needle for needle in needles if needle.encode() in content]


@pytest.fixture
def files(request: pytest.FixtureRequest, location: str, tmp_path: Path) -> Path:
    """Where the database keeps its tables, indexes and statistics."""
    if location == str(tmp_path):
        return tmp_path
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.directory / "base"


def checkpoint(store: Store) -> None:
    """Have PostgreSQL write what it holds in memory: SQLite's write-ahead log is among the files."""
    if store.is_shared:
        with store._database.transaction() as connection:
            connection.execute(sa.text("ANALYZE"))  # which keeps samples of values
        with store._database.transaction() as connection:
            connection.execute(sa.text("CHECKPOINT"))


def test_nothing_is_left_in_the_files(store: Store, uid: int, files: Path) -> None:
    """Ids, uris and vectors of what was deleted, replaced, or of a collection that was dropped."""
    other = store.create_collection(Collection(name="other", dimension=2)).uid
    many = [NewRecord(f"kept-{n % 97}-{n}", {}, vector=bytes(600)) for n in range(2000)]
    store.write([Write(uid, many)])
    mine = NewRecord("an-id-of-mine", {}, uri="uri-of-mine", vector=b"vector of mine")
    store.write([Write(uid, [mine, NewRecord("replaced-id", {}, uri="uri-replaced", vector=bytes(8))])])
    store.write([Write(other, [NewRecord("other-id", {}, vector=b"its vector")])])
    checkpoint(store)
    write(store, uid, "replaced-id")
    checkpoint(store)
    assert found_in(files, NEEDLES) == NEEDLES
    store.delete_collection(other)
    store.write([Write(uid, deletes=["an-id-of-mine"])])
    head = store.heads().collections[uid][1]
    purge(store, uid, head)
    assert store.clean([uid]) == {uid: 0}
    store.rewrite()
    assert store.clean([uid]) == {uid: head}
    checkpoint(store)
    assert found_in(files, NEEDLES) == ["replaced-id"]
    assert store.heads().collections[uid] == (2001, head)
    store.delete_collection(store.create_collection(Collection(name="third", dimension=2)).uid)
    assert store.clean([uid]) == {uid: 0}  # the records of that one lay among these


def test_nothing_is_left_where_pages_were_balanced(store: Store, uid: int, files: Path) -> None:
    """Indexes keep copies of ids on pages from which they were moved, which zeroing what is deleted does not reach."""
    chance = random.Random(1)
    names = [f"{chance.randrange(10**6)}-{'secret' if n % 3 else 'kept'}-{n}" for n in range(3000)]
    for start in range(0, len(names), 100):
        write(store, uid, *names[start : start + 100])
    secret = [name for name in names if "secret" in name]
    chance.shuffle(secret)
    for start in range(0, len(secret), 50):
        store.write([Write(uid, deletes=secret[start : start + 50])])
        write(store, uid, *(f"{chance.randrange(10**6)}-new-{start}-{n}" for n in range(20)))
    purge(store, uid, store.heads().collections[uid][1])
    store.rewrite()
    checkpoint(store)
    assert found_in(files, ["-secret-", "-kept-"]) == ["-kept-"]


def test_what_others_may_still_read_is_left(postgres: Postgres) -> None:
    """PostgreSQL keeps deleted rows for transactions that began before: nobody is told that they are gone."""
    store = Store(Database(postgres.new_database()))
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    write(store, uid, "a")
    with store._database.snapshot() as connection:
        connection.execute(sa.select(records.c.id)).all()
        write(store, uid, deletes="a")
        purge(store, uid, 2)
        with pytest.raises(Unavailable, match="may still read"):
            store.rewrite()
        assert store.clean([uid]) == {uid: 0}
    store.rewrite()
    assert store.clean([uid]) == {uid: 2}
    store.close()


@contextlib.asynccontextmanager
async def purging(journal: Journal, *shards: FakeShard, horizon: float = 3600) -> AsyncIterator[Purging]:
    async with serving(*shards):
        topology = Topology([shard.address for shard in shards])
        yield Purging(journal, topology, horizon)
        await topology.close()


@pytest.fixture
async def collection(journal: Journal) -> Collection:
    """One with two records, the first of which was deleted."""
    made = await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    await journal.change(write, journal.store, made.uid, "a", "b")
    await journal.change(partial(write, journal.store, made.uid, deletes="a"))
    assert made.uid == 1  # what fake shards speak of
    return made


def left(response: PurgeCollectionResponse) -> dict[str, str]:
    return {each.where: each.why for each in response.remains}


async def test_all_of_it(journal: Journal, collection: Collection) -> None:
    """Shards apply the deletion, then the tombstone goes, then files are written anew; to ask again does nothing."""
    late, busy = FakeShard(0, 2, seq=2), FakeShard(1, 2, seq=3, keeps_dead_rows=True)
    async with purging(journal, late, busy) as purger:
        response = await purger.purge([collection], 0, in_time())
        assert (response.seq, response.done) == (3, False)
        assert left(response) == {
            "the store": "shards do not all know what was deleted",
            late.address: "has not applied all of the log",
            busy.address: "is to compact",
        }
        assert any(row.deleted for row in page(journal.store, 1).rows)
        await journal.change(write, journal.store, 1, "c")
        late.seq = 4
        await eventually_done(purger, collection, {busy.address: "is to compact"})
        assert [row.id for row in page(journal.store, 1).rows] == ["b", "c"]
        busy.keeps_dead_rows = False
        await eventually_done(purger, collection, {})
        clean = journal.store.clean([1])
        again = await purger.purge([collection], 3, in_time())
        assert (again.done, again.seq, list(again.remains), journal.store.clean([1])) == (True, 3, [], clean)
        assert bool(again.notes) == journal.store.is_shared


async def eventually_done(purger: Purging, collection: Collection, remains: dict[str, str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while left(await purger.purge([collection], 3, in_time())) != remains:
            pass


async def test_a_process_that_is_away_is_named(journal: Journal, collection: Collection) -> None:
    """It does not hold up the others, and whoever asks hears that it may hold something."""
    there, away = FakeShard(0, 2, seq=3), FakeShard(1, 2, seq=3)
    async with purging(journal, there) as purger:
        purger._topology.use([there.address, "127.0.0.1:1"])
        await eventually_done(purger, collection, {"127.0.0.1:1": "unreachable"})
        assert there.clean_seq == 3
    assert away.clean_seq == 0


async def test_purging_what_is_not_there(journal: Journal, collection: Collection) -> None:
    """A `seq` that the log does not have, and a collection that is gone."""
    async with purging(journal) as purger:
        with pytest.raises(FailedPrecondition, match="ends at 3, before 4"):
            await purger.purge([collection], 4, in_time())
        await journal.change_catalog(journal.store.delete_collection, 1)
        with pytest.raises(NotFound):
            await purger.purge([collection], 0, in_time())


async def test_what_is_old_is_purged_by_itself(journal: Journal, collection: Collection) -> None:
    """Tombstones, and the marks of places that nobody who is up to date is at; what is young stays."""
    place = page(journal.store, 1).head
    async with purging(journal, horizon=3600) as purger:
        await purger.purge_old()
        assert page(journal.store, 1).purged == 0
    await asyncio.sleep(0.1)
    await journal.change(partial(write, journal.store, 1, deletes="b"))
    later = page(journal.store, 1).head
    async with purging(journal, horizon=0.05) as purger:
        await purger.purge_old()
    assert page(journal.store, 1).purged == 3
    assert [(row.id, row.deleted) for row in page(journal.store, 1).rows] == [("b", True)]
    assert [journal.store.knows(each) for each in (place, later)] == [True, True]
    await asyncio.sleep(0.1)
    async with purging(journal, horizon=0.05) as purger:
        await purger.purge_old()
    assert not page(journal.store, 1).rows
    assert [journal.store.knows(each) for each in (place, later)] == [False, True]
