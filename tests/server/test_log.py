"""Following the log over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import status_pb2
from prometheus_client import CollectorRegistry

from tests.server.fakes import PATIENCE, eventually, in_time, sample
from vitrail.rpc.channel import STATUS_DETAILS
from vitrail.rpc.errors import InvalidArgument, from_status
from vitrail.rpc.server import Server
from vitrail.rpc.slots import SLOTS, slot_of
from vitrail.server.database import Database
from vitrail.server.journal import Journal
from vitrail.server.log import MAX_PAGE_ROWS, LogService
from vitrail.server.store import Page, Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor, FollowRequest, FollowResponse
from vitrail.v1.log_pb2_grpc import LogServiceStub, add_LogServiceServicer_to_server
from vitrail.v1.types_pb2 import Attributes, Value

if TYPE_CHECKING:
    from vitrail.v1.log_pb2_grpc import LogServiceAsyncStub


class Follower:
    """What a shard does with the stream: it holds rows, drops collections, and keeps its places."""

    def __init__(
        self,
        stub: "LogServiceAsyncStub",
        begin: int = 0,
        end: int = SLOTS,
        *cursors: Cursor,
        without: Sequence[int] = (),
    ) -> None:
        self._call = stub.Follow(FollowRequest(slot_begin=begin, slot_end=end, cursors=cursors, without=without))
        self.events: list[str] = []
        self.collections: dict[int, Collection] = {}
        self.held: dict[int, dict[str, tuple[bytes, bytes, int]]] = {}
        self.places: dict[int, Cursor] = {}

    async def until(self, **seqs: int) -> None:
        """Read until the collections of these names are complete up to their seq."""
        async with asyncio.timeout(PATIENCE):
            while not self.is_at(**seqs):
                self._take(await self._call.read())

    async def until_gone(self, name: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while any(collection.name == name for collection in self.collections.values()):
                self._take(await self._call.read())

    async def failure(self) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self._call.read()
        return caught.value

    async def at_end(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self._call.read() is grpc.aio.EOF

    def leave(self) -> None:
        self._call.cancel()

    def is_at(self, **seqs: int) -> bool:
        names = {collection.name: uid for uid, collection in self.collections.items()}
        return all(name in names and self._seq(names[name]) == seq for name, seq in seqs.items())

    def ids(self, name: str = "c") -> set[str]:
        return set(self.held.get(self.uid(name), ()))

    def place(self, name: str = "c") -> Cursor:
        return self.places[self.uid(name)]

    def uid(self, name: str) -> int:
        return next(uid for uid, collection in self.collections.items() if collection.name == name)

    def _seq(self, uid: int) -> int:
        return self.places[uid].seq if uid in self.places else -1

    def _take(self, response: object) -> None:
        assert isinstance(response, FollowResponse), "the stream ended"
        kind = response.WhichOneof("event")
        self.events.append(str(kind))
        match kind:
            case "catalog":
                self.collections = {collection.uid: collection for collection in response.catalog.collections}
            case "rows":
                held = self.held.setdefault(response.rows.collection_uid, {})
                assert response.rows.head >= response.rows.rows[-1].seq
                for row in response.rows.rows:
                    assert row.slot == slot_of(row.id)
                    held[row.id] = (row.vector, row.attributes, row.seq)
                    if row.deleted:
                        assert (row.vector, row.attributes) == (b"", b"")
                        del held[row.id]
            case "checkpoint":
                self.places[response.checkpoint.collection_uid] = response.checkpoint
            case "reset":
                self.held.pop(response.reset.collection_uid, None)


def record(record_id: str, vector: bytes = b"12345678") -> NewRecord:
    return NewRecord(record_id, {"name": Value(string_value=record_id)}, "file:x", vector, b"hash", b"thumbnail")


async def collection(journal: Journal, name: str = "c", dimension: int = 2) -> int:
    made = await journal.change_catalog(journal.store.create_collection, Collection(name=name, dimension=dimension))
    return made.uid


@pytest.fixture
async def stub(journal: Journal) -> AsyncIterator["LogServiceAsyncStub"]:
    server = Server("127.0.0.1", 0, registry=CollectorRegistry())
    server.add(add_LogServiceServicer_to_server, LogService(journal), "vitrail.v1.LogService")
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield LogServiceStub(channel)
    journal.news.end()
    await server.drain(10.0)


async def test_catalog_rows_checkpoint(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """First what collections there are, then the rows of each, then the place up to which they are complete."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a"), record("b", b"abcdefgh")]), in_time())
    await journal.write(Write(uid, deletes=["a"]), in_time())
    follower = Follower(stub)
    await follower.until(c=3)
    assert follower.events == ["catalog", "rows", "checkpoint"]
    attributes = Attributes(fields={"name": Value(string_value="b")}).SerializeToString()
    assert follower.held[uid] == {"b": (b"abcdefgh", attributes, 2)}
    assert follower.place().mark != 0
    assert dict(follower.collections[uid].attributes) == {"name": 1}


async def test_a_catalog_that_is_not_the_stores_is_not_sent(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """What shards told a coordinator would have other shards drop what they did not tell of."""
    await collection(journal)
    journal.is_loaded = False
    assert (await Follower(stub).failure()).code() == grpc.StatusCode.UNAVAILABLE


async def test_an_empty_collection(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """It has a place too, so that a shard knows that it holds all of it."""
    uid = await collection(journal)
    follower = Follower(stub)
    await follower.until(c=0)
    assert follower.place() == Cursor(collection_uid=uid)


async def test_what_is_new_is_pushed(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """A follower that is up to date gets rows, collections and types as they are committed."""
    uid = await collection(journal)
    follower = Follower(stub)
    await follower.until(c=0)
    await journal.write(Write(uid, [record("a")]), in_time())
    await follower.until(c=1)
    assert follower.ids() == {"a"}
    assert dict(follower.collections[uid].attributes) == {"name": 1}
    other = await collection(journal, "other")
    await journal.write(Write(other, [record("b"), record("c")]), in_time())
    await follower.until(c=1, other=2)
    assert follower.ids("other") == {"b", "c"}
    await journal.write(Write(uid, [record("a", b"abcdefgh")], ["never"]), in_time())
    await journal.write(Write(other, deletes=["b"]), in_time())
    await follower.until(c=2, other=3)
    assert (follower.held[uid]["a"][0], follower.ids("other")) == (b"abcdefgh", {"c"})


async def test_nothing_is_sent_twice(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """News of one collection sends nothing of another, and each row comes once."""
    uid, other = await collection(journal), await collection(journal, "other")
    await journal.write(Write(other, [record("x")]), in_time())
    follower = Follower(stub)
    await follower.until(c=0, other=1)
    before = len(follower.events)
    for n in range(3):
        await journal.write(Write(uid, [record(f"r{n}")]), in_time())
        await follower.until(c=n + 1)
    # One more catalog: the first row fixed the type of its attribute.
    assert sorted(follower.events[before:]) == ["catalog", *["checkpoint"] * 3, *["rows"] * 3]


async def test_going_on_from_a_place(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """A follower that comes back gets what has changed since, deletions included."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a"), record("b"), record("c")]), in_time())
    first = Follower(stub)
    await first.until(c=3)
    first.leave()
    await journal.write(Write(uid, [record("c", b"abcdefgh")], ["a"]), in_time())
    second = Follower(stub, 0, SLOTS, first.place())
    second.held = first.held
    await second.until(c=5)
    assert second.events == ["catalog", "rows", "checkpoint"]
    assert second.ids() == {"b", "c"}
    third = Follower(stub, 0, SLOTS, second.place())
    await third.until(c=5)
    assert third.events == ["catalog", "checkpoint"]  # where nothing is new, it is told so
    await journal.write(Write(uid, [record("d")]), in_time())
    await third.until(c=6)
    assert third.ids() == {"d"}


@pytest.mark.parametrize("change", ["mark", "seq"])
async def test_a_place_that_the_store_does_not_know(stub: "LogServiceAsyncStub", journal: Journal, change: str) -> None:
    """A follower of another history is told to begin again, and gets everything."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a"), record("b")]), in_time())
    known = Follower(stub)
    await known.until(c=2)
    place = Cursor(collection_uid=uid, seq=known.place().seq, mark=known.place().mark)
    setattr(place, change, getattr(place, change) + 1)
    follower = Follower(stub, 0, SLOTS, place)
    follower.held = {uid: {"of another history": (b"", b"", 1)}}
    await follower.until(c=2)
    assert follower.events == ["catalog", "reset", "rows", "checkpoint"]
    assert follower.ids() == {"a", "b"}


async def test_a_tombstone_that_was_purged_too_soon(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """Who was not told of it begins again, and holds no record that is gone; who was goes on."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a"), record("b")]), in_time())
    away, there = Follower(stub), Follower(stub)
    await away.until(c=2)
    away.leave()
    await journal.write(Write(uid, deletes=["a"]), in_time())
    await there.until(c=3)
    await journal.read(journal.store.purge, uid, 3)
    back = Follower(stub, 0, SLOTS, away.place())
    back.held = away.held
    await back.until(c=3)
    assert back.events == ["catalog", "reset", "rows", "checkpoint"]
    assert back.ids() == {"b"}
    again = Follower(stub, 0, SLOTS, there.place())
    await again.until(c=3)
    assert again.events == ["catalog", "checkpoint"]
    # What broke off before its first checkpoint may hold anything.
    unfinished = Follower(stub, 0, SLOTS, Cursor(collection_uid=uid))
    unfinished.held = {uid: {"a": (b"", b"", 1)}}
    await unfinished.until(c=3)
    assert unfinished.ids() == {"b"}
    fresh = Follower(stub)
    await fresh.until(c=3)
    assert fresh.events == ["catalog", "rows", "checkpoint"]


async def test_a_tombstone_that_is_purged_between_two_pages(
    stub: "LogServiceAsyncStub", journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that was sent the record, and can no longer be told that it is gone, begins again."""
    uid = await collection(journal)
    names = [f"r{n}" for n in range(MAX_PAGE_ROWS + 10)]
    await journal.write(Write(uid, [record(name) for name in names]), in_time())
    page, pages = journal.store.page, 0

    def page_and_purge(*arguments: Any) -> Page | None:
        nonlocal pages
        pages += 1
        if pages == 2:
            journal.store.write([Write(uid, deletes=["r0"])])
            journal.store.purge(uid, len(names) + 1)
        return page(*arguments)

    monkeypatch.setattr(journal.store, "page", page_and_purge)
    follower = Follower(stub)
    await follower.until(c=len(names) + 1)
    assert follower.events == ["catalog", "rows", "reset", "rows", "rows", "checkpoint"]
    assert follower.ids() == set(names[1:])


async def test_a_store_that_goes_back_in_time_under_a_stream(
    stub: "LogServiceAsyncStub", journal: Journal, tmp_path: Path
) -> None:
    """As a database does that failed over: what the follower was told is of another history, whatever its number."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a")]), in_time())
    follower = Follower(stub)
    await follower.until(c=1)
    other = Store(Database(str(tmp_path / "other")))
    other.create_collection(Collection(name="c", dimension=2))
    other.write([Write(uid, [record("b")])])
    ours, journal.store = journal.store, other
    journal.news.tell()
    async with asyncio.timeout(PATIENCE):
        while follower.events[-1] != "checkpoint" or "reset" not in follower.events:
            follower._take(await follower._call.read())
    assert follower.ids() == {"b"}
    journal.store = ours
    other.close()


async def test_only_the_asked_slots(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """Each shard gets its own records, and the place that all have come to, also where it has none."""
    uid = await collection(journal)
    names = {f"r{n}" for n in range(40)}
    await journal.write(Write(uid, [record(name) for name in names]), in_time())
    halves = [Follower(stub, 0, 512), Follower(stub, 512, 1024)]
    for half in halves:
        await half.until(c=40)
    assert halves[0].ids() == {name for name in names if slot_of(name) < 512}
    assert halves[1].ids() == names - halves[0].ids()
    mine = next(name for name in map(str, range(1000)) if slot_of(name) < 512)
    await journal.write(Write(uid, [record(mine)]), in_time())
    for half in halves:
        await half.until(c=41)
    assert mine in halves[0].ids()
    assert mine not in halves[1].ids()


async def test_without_some_collections(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """They are in the catalog, and nothing else is sent of them, however much there is."""
    one, other = await collection(journal, "c"), await collection(journal, "d")
    for uid in (one, other):
        await journal.write(Write(uid, [record("a")]), in_time())
    follower = Follower(stub, without=[one])
    await follower.until(d=1)
    await journal.write(Write(one, [record("b")]), in_time())
    await journal.write(Write(other, [record("b")]), in_time())
    await follower.until(d=2)
    assert follower.collections.keys() == {one, other}
    assert (set(follower.held), set(follower.places)) == ({other}, {other})


async def test_more_than_a_page(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """Rows come in several messages, and one checkpoint when all have."""
    uid = await collection(journal)
    names = [f"r{n}" for n in range(2 * MAX_PAGE_ROWS)]
    await journal.write(Write(uid, [record(name) for name in names]), in_time())
    follower = Follower(stub)
    await follower.until(c=len(names))
    assert follower.events == ["catalog", "rows", "rows", "checkpoint"]
    assert follower.ids() == set(names)


async def test_long_vectors_make_small_pages(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """A message is bounded by its bytes, whatever the dimension."""
    uid = await collection(journal, dimension=4096)
    await journal.write(Write(uid, [record(f"r{n}", bytes(4 * 4096)) for n in range(50)]), in_time())
    follower = Follower(stub)
    await follower.until(c=50)
    assert follower.events == ["catalog", "rows", "rows", "checkpoint"]


async def test_a_deleted_collection_leaves_the_catalog(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """A follower that is told so drops it, and one of the same name is another."""
    uid, other = await collection(journal), await collection(journal, "other")
    await journal.write(Write(uid, [record("a")]), in_time())
    follower = Follower(stub)
    await follower.until(c=1, other=0)
    place = follower.place()
    await journal.change_catalog(journal.store.delete_collection, uid)
    await follower.until_gone("c")
    assert set(follower.collections) == {other}
    again = await collection(journal)
    await follower.until(c=0, other=0)
    assert again != uid
    late = Follower(stub, 0, SLOTS, place)
    await late.until(c=0, other=0)
    assert set(late.collections) == {again, other}


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (5, 5), (7, 3), (-1, 5), (0, SLOTS + 1), (SLOTS, SLOTS + 1)])
async def test_slots_that_are_none(stub: "LogServiceAsyncStub", begin: int, end: int) -> None:
    """They are refused, with their field."""
    failure = await Follower(stub, begin, end).failure()
    error = from_status(status_pb2.Status.FromString(dict(failure.trailing_metadata())[STATUS_DETAILS]))
    assert isinstance(error, InvalidArgument)
    assert error.field == "slot_end"


async def test_streams_end_with_the_coordinator(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """So that draining need not wait for those who follow for ever."""
    await collection(journal)
    follower = Follower(stub)
    await follower.until(c=0)
    journal.news.end()
    assert await follower.at_end()


async def test_followers_are_counted(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """While they follow, and no longer."""
    await collection(journal)
    before = sample("vitrail_log_followers")
    follower = Follower(stub)
    await follower.until(c=0)
    assert sample("vitrail_log_followers") == before + 1
    follower.leave()
    await eventually(lambda: sample("vitrail_log_followers") == before)


async def test_following_while_others_write(stub: "LogServiceAsyncStub", journal: Journal) -> None:
    """Whoever joins in the middle of many writes ends with what the store holds."""
    uid = await collection(journal)
    followers, readers = [], []
    for n in range(30):
        if n % 10 == 5:
            followers.append(Follower(stub))
            readers.append(asyncio.create_task(followers[-1].until(c=10**9)))
        writes = [Write(uid, [record(f"r{(n * 7 + k) % 20}", b"%08d" % (n * 10 + k))]) for k in range(3)]
        writes.append(Write(uid, deletes=[f"r{n % 20}"]))
        await asyncio.gather(*(journal.write(write, in_time()) for write in writes))
    truth = {one.id: one.vector for one in await journal.read(journal.store.list, uid, "", 100)}
    (_, seq) = (await journal.read(journal.store.heads)).collections[uid]
    for follower in followers:
        await eventually(partial(follower.is_at, c=seq))
        assert {name: row[0] for name, row in follower.held[uid].items()} == truth
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
