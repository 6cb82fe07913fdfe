"""Several coordinators on one PostgreSQL: their writes, and those who follow the log all the while."""

import asyncio
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.postgres import Postgres, running_postgres
from tests.server.fakes import eventually, in_time, running
from vitrail.rpc.errors import AlreadyExists, Unavailable
from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database
from vitrail.server.journal import Journal
from vitrail.server.store import Store
from vitrail.server.tables import collections
from vitrail.server.writing import NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import AttributeType, Value

ALL = (0, SLOTS)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def stores(url: str) -> Iterator[tuple[Store, Store]]:
    pair = Store(Database(url)), Store(Database(url))
    yield pair
    for store in pair:
        store.close()


@pytest.fixture
def uid(stores: tuple[Store, Store]) -> int:
    return stores[0].create_collection(Collection(name="c", dimension=2)).uid


def create_collection(url: str, name: str) -> None:
    store = Store(Database(url))
    store.create_collection(Collection(name=name, dimension=2))
    store.close()


def record(record_id: str, text: str = "") -> NewRecord:
    return NewRecord(record_id, {}, uri=text, vector=b"12345678")


class Follower(threading.Thread):
    """Follows the log in passes, as shards do, and keeps what it is told by id."""

    def __init__(self, store: Store, uid: int, slots: tuple[int, int] = ALL) -> None:
        super().__init__()
        self.held: dict[str, int] = {}
        self.seq = 0
        self.faults: list[str] = []
        self._store, self._uid, self._slots = store, uid, slots
        self._until: int | None = None

    def run(self) -> None:
        while self._until is None or self.seq < self._until:
            self._pass()

    def finish(self, seq: int) -> None:
        self._until = seq
        self.join(timeout=60)
        assert not self.is_alive()

    def _pass(self) -> None:
        after = self.seq
        while True:
            page = self._store.page(self._uid, self._slots, after, 7)
            assert page is not None
            for row in page.rows:
                if row.seq > page.head.seq:
                    self.faults.append(f"{row.id} has {row.seq}, above the head {page.head.seq}")
                if row.deleted:
                    self.held.pop(row.id, None)
                else:
                    self.held[row.id] = row.seq
                after = row.seq
            if len(page.rows) < 7:
                self.seq = page.head.seq
                return


@pytest.mark.parametrize("seed", range(3))
def test_nobody_who_follows_misses_a_write(stores: tuple[Store, Store], uid: int, seed: int) -> None:
    """Writers of two processes hold their transactions open for random times; followers end with what is there."""
    followers = [Follower(stores[0], uid), Follower(stores[1], uid, (0, 512)), Follower(stores[1], uid, (512, SLOTS))]
    for follower in followers:
        follower.start()

    def write(number: int) -> list[int]:
        chance = random.Random(seed * 100 + number)
        taken = []
        for _ in range(25):
            store = chance.choice(stores)
            ids = [f"r{chance.randrange(60)}" for _ in range(chance.randint(1, 5))]
            deletes = [f"r{chance.randrange(60)}"] if chance.random() < 0.3 else []
            (outcome,) = store.write([Write(uid, list(map(record, ids)), [i for i in deletes if i not in ids])])
            assert isinstance(outcome, Written)
            taken.append(outcome.seq)
            time.sleep(chance.random() * 0.003)
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [seq for seqs in pool.map(write, range(6)) for seq in seqs]
    assert len(set(taken)) == len(taken)
    head = stores[0].heads().collections[uid][1]
    assert max(taken) == head
    for follower in followers:
        follower.finish(head)
        assert not follower.faults
    truth = {found.id: found.seq for found in stores[1].list(uid, "", 1000)}
    assert followers[0].held == truth
    assert followers[1].held | followers[2].held == truth
    assert stores[0].heads().collections[uid][0] == len(truth)


def test_a_transaction_that_commits_late_is_not_skipped(stores: tuple[Store, Store], uid: int) -> None:
    """Who writes after it waits for it, so that no number above its own is there before it."""
    (slow, quick), (taken, go_on) = stores, (threading.Event(), threading.Event())

    def write_slowly() -> None:
        def hold(*_: object) -> None:
            taken.set()
            assert go_on.wait(30)

        sa.event.listen(slow._database._engine, "commit", hold)
        slow.write([Write(uid, [record("slow")])])
        sa.event.remove(slow._database._engine, "commit", hold)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write_slowly)
        assert taken.wait(30)
        second = pool.submit(quick.write, [Write(uid, [record("quick")])])
        page = quick.page(uid, ALL, 0, 10)
        assert page is not None
        assert (page.head.seq, page.rows) == (0, [])
        time.sleep(0.2)
        assert not second.done()
        go_on.set()
        first.result()
        second.result()
    page = quick.page(uid, ALL, 0, 10)
    assert page is not None
    assert [(row.id, row.seq) for row in page.rows] == [("slow", 1), ("quick", 2)]


def test_writers_of_the_same_collections_do_not_wait_in_a_circle(stores: tuple[Store, Store]) -> None:
    """Whatever the order in which a transaction names them."""
    one, other = (stores[0].create_collection(Collection(name=name, dimension=2)).uid for name in "ab")

    def write(store: Store, uids: tuple[int, int]) -> None:
        for number in range(30):
            store.write([Write(uid, [record(f"r{number}")]) for uid in uids])

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(write, stores[0], (one, other)), pool.submit(write, stores[1], (other, one))]
        for task in tasks:
            task.result()
    assert {uid: seq for uid, (_, seq) in stores[0].heads().collections.items()} == {one: 60, other: 60}


def test_a_schema_is_widened_by_both(stores: tuple[Store, Store], uid: int) -> None:
    """Neither overwrites what the other has fixed meanwhile."""

    def write(store: Store, name: str) -> None:
        for number in range(10):
            given = NewRecord("r", {f"{name}{number}": Value(integer_value=1)}, vector=b"12345678")
            store.write([Write(uid, [given])])

    with ThreadPoolExecutor(2) as pool:
        for task in [pool.submit(write, *each) for each in zip(stores, "ab", strict=True)]:
            task.result()
    _, (collection,) = stores[0].read_catalog()
    expected = {f"{name}{number}": AttributeType.ATTRIBUTE_TYPE_INTEGER for name in "ab" for number in range(10)}
    assert dict(collection.attributes) == expected


def test_a_name_is_taken_once(stores: tuple[Store, Store]) -> None:
    """However many ask for it at the same moment."""

    def is_created(number: int) -> bool:
        try:
            stores[number % 2].create_collection(Collection(name="same", dimension=2))
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(is_created, range(6))) == 1


def test_coordinators_that_start_together(url: str) -> None:
    """One of them makes the tables, the others find them."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(create_collection, [url] * 4, "abcd", timeout=60)) == [None] * 4
    store = Store(Database(url))
    assert {collection.name for collection in store.read_catalog()[1]} == set("abcd")
    store.close()


def test_a_follower_of_few_slots_reads_little(stores: tuple[Store, Store], uid: int) -> None:
    """A 64th of the slots is about a 64th of the blocks: the others' vectors are never touched."""
    vector = bytes(2560)
    stores[0].write([Write(uid, [NewRecord(f"r{number}", {}, vector=vector) for number in range(6400)])])

    def blocks(slots: int) -> int:
        query = (
            f"SELECT md5(vector) FROM records WHERE collection_uid = {uid} AND seq > 0"
            f" AND slot >= 0 AND slot < {slots} ORDER BY seq"
        )
        with stores[0]._database.transaction() as connection:
            plan = connection.execute(sa.text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")).scalar_one()
        return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])

    with stores[0]._database.transaction() as connection:
        connection.execute(sa.text("ANALYZE"))
    assert blocks(SLOTS // 64) < blocks(SLOTS) / 20


async def test_what_others_write_is_news(stores: tuple[Store, Store]) -> None:
    """A coordinator sees the collections and the writes of another one without being told."""
    ours, theirs = Journal(stores[0]), Journal(stores[1])
    await ours.load_catalog()
    await theirs.load_catalog()
    watching = asyncio.create_task(ours.watch(lambda: (0, ())))
    async with running(theirs.batcher):
        made = await theirs.change_catalog(theirs.store.create_collection, Collection(name="new", dimension=2))
        await eventually(lambda: [collection.uid for collection in ours.catalog.all()] == [made.uid])
        await asyncio.sleep(0.2)
        news = ours.news.listen()
        await theirs.write(Write(made.uid, [record("a")]), in_time())
        await asyncio.wait_for(news.wait(), 5)
        await theirs.change_catalog(theirs.store.delete_collection, made.uid)
        await eventually(lambda: not ours.catalog.all())
    watching.cancel()
    ours.close()
    theirs.close()


async def test_who_hears_that_a_collection_exists_finds_it(stores: tuple[Store, Store]) -> None:
    """Two workers that create one collection through two coordinators: both go on with it, at once."""
    ours, theirs = Journal(stores[0]), Journal(stores[1])
    wanted = Collection(name="new", dimension=2)
    made = await theirs.change_catalog(theirs.store.create_collection, wanted)
    with pytest.raises(AlreadyExists, match="new"):
        await ours.change_catalog(ours.store.create_collection, wanted)
    assert ours.catalog.get("new").uid == made.uid
    ours.close()
    theirs.close()


def test_a_server_that_is_away_and_comes_back() -> None:
    """Everything is Unavailable meanwhile, at once, and works again by itself afterwards, with all that was written."""
    with running_postgres() as server:
        store = Store(Database(server.new_database()))
        uid = store.create_collection(Collection(name="c", dimension=2)).uid
        store.write([Write(uid, [record("before")])])
        for end in (server.stop, server.kill):
            end()
            for work in (lambda: store.write([Write(uid, [record("before")])]), store.heads, store.read_catalog):
                start = time.monotonic()
                with pytest.raises(Unavailable):
                    until_it_fails(work)
                assert time.monotonic() - start < 10
            server.start()
            store.write([Write(uid, [record("after")])])
        with store._database.transaction() as connection:
            assert connection.execute(sa.select(collections.c.records)).scalar_one() == 2
        assert [found.id for found in store.list(uid, "", 10)] == ["after", "before"]
        store.close()


def until_it_fails(work: Callable[[], object]) -> None:
    """A server that was told to stop may answer once more."""
    for _ in range(100):
        work()
        time.sleep(0.02)


def test_a_url_that_cannot_be_read() -> None:
    """What is no URL is a wrong setting, and one that nobody listens on is a store that is away."""
    with pytest.raises(ValueError, match="URL of the store"):
        Database("postgresql://user@host:port/name")
    with pytest.raises(Unavailable, match="the store failed"):
        Store(Database("postgresql://nobody@127.0.0.1:1/none")).heads()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hidden@127.0.0.1:1/name",
        "postgresql://user:hid/den@127.0.0.1:1/name",
        "postgresql://127.0.0.1:1/name?user=user&password=hidden",
        "postgresql://user:hidden@127.0.0.1:1/name?sslmode=nonsense",
        "postgresql://user:hidden",
        "postgresql+psycopg://user:hidden@127.0.0.1:1/name",
        "mysql://user:hidden@host/name",
    ],
)
def test_a_password_is_in_no_message(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where the URL cannot be read nor where nobody can be connected to; and no file is named like it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, Unavailable)) as caught:
        Database(url).migrate()
    assert "hid" not in "".join(traceback.format_exception_only(caught.value))
    assert list(tmp_path.iterdir()) == []


def test_connections_to_a_machine_that_is_gone_are_given_up(url: str) -> None:
    """Within seconds, where TCP would wait for hours: the kernel is asked so for each connection."""
    database = Database(url)
    with database.transaction() as connection:
        asked = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    database.close()
    assert int(asked["tcp_user_timeout"]) <= 10_000
    assert int(asked["keepalives_idle"]) + int(asked["keepalives_interval"]) * int(asked["keepalives_count"]) <= 10
