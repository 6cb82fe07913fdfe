"""Deleting by filter: shards in this process say which ids match, the real store deletes."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.server.fakes import FakeShard, serving
from vitrail.rpc.attributes import TYPE_NAMES
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import InvalidArgument, NotFound, Unavailable
from vitrail.server import matching
from vitrail.server.journal import Journal
from vitrail.server.records import RecordService
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.record_pb2 import DeleteRecordsRequest, DeleteRecordsResponse

SOON = 5.0


class Context:
    """A caller who has some seconds left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float:
        return self._seconds


@pytest.fixture
def uid(journal: Journal) -> int:
    """A collection of the records a to f, written up to `seq` 6."""
    collection = journal.store.create_collection(
        Collection(name="c", dimension=2, attributes={"n": TYPE_NAMES["integer"]})
    )
    upsert(journal, collection.uid, "abcdef")
    return collection.uid


def upsert(journal: Journal, uid: int, names: str) -> None:
    journal.store.write([Write(uid, [NewRecord(name, {}, vector=b"12345678") for name in names])])


def head(journal: Journal, uid: int) -> Cursor:
    page = journal.store.page(uid, (0, 1024), 0, 1)
    assert page is not None
    return page.head


def left(journal: Journal, uid: int) -> str:
    return "".join(record.id for record in journal.store.list(uid, "", 100))


@contextlib.asynccontextmanager
async def known(*shards: FakeShard) -> AsyncIterator[Topology]:
    for index, shard in enumerate(shards):
        shard.index, shard.shards = index, len(shards)
    async with serving(*shards):
        topology = Topology([shard.address for shard in shards])
        await topology.probe_all()
        try:
            yield topology
        finally:
            for shard in shards:
                shard.go_on()
            await topology.close()


async def delete(
    journal: Journal, topology: Topology, *, seconds: float = SOON, **fields: Any
) -> DeleteRecordsResponse:
    await journal.load_catalog()
    pipeline: Any = None  # nothing is embedded
    context: Any = Context(seconds)
    service = RecordService(journal, pipeline, topology, SOON)
    return await service.DeleteRecords(DeleteRecordsRequest(collection="c", **fields), context)


async def test_what_all_shards_match_is_deleted(journal: Journal, uid: int) -> None:
    """They are asked with the filter as it was parsed; pages come together, and what is gone already is no error."""
    applied = [head(journal, uid)]
    first = FakeShard(matching=["a", "c", "e"], applied=applied)
    second = FakeShard(matching=["f", "never"], applied=applied)
    async with known(first, second, FakeShard(applied=applied)) as topology:
        response = await delete(journal, topology, filter="n IS NULL")
    assert left(journal, uid) == "bd"
    assert (response.deleted, response.seq) == (4, 10)
    assert first.filters == second.filters == [Filter(is_null="n")]


async def test_nothing_matches(journal: Journal, uid: int) -> None:
    async with known(FakeShard(applied=[head(journal, uid)])) as topology:
        response = await delete(journal, topology, filter="n IS NULL")
    assert (response.deleted, response.seq) == (0, 0)
    assert left(journal, uid) == "abcdef"


async def test_a_record_that_is_written_again_meanwhile_stays(journal: Journal, uid: int) -> None:
    """It may not meet the filter any more; each shard's ids are judged by what that shard had applied."""
    early = head(journal, uid)
    shard = FakeShard(matching=["a", "b", "c"], applied=[early])
    async with known(shard) as topology:
        matches = await matching.match(journal, topology, uid, Filter(is_null="n"), Deadline.after(SOON))
        upsert(journal, uid, "b")
        (found,) = matches
        journal.store.write([Write(uid, deletes=found.ids, deletes_as_of=found.seq)])
    assert left(journal, uid) == "bdef"


async def test_a_shard_that_is_behind_is_waited_for(journal: Journal, uid: int) -> None:
    """What was written before the call is found."""
    behind = head(journal, uid)
    upsert(journal, uid, "a")
    shard = FakeShard(matching=["a"], applied=[Cursor(), behind, behind, head(journal, uid)])
    async with known(shard) as topology:
        assert (await delete(journal, topology, filter="n IS NULL")).deleted == 1
    assert len(shard.filters) == 4
    assert left(journal, uid) == "bcdef"


async def test_a_shard_of_another_history_is_waited_for(journal: Journal, uid: int) -> None:
    """A store that was restored does not believe what a shard has of the time after."""
    now = head(journal, uid)
    future = Cursor(collection_uid=uid, seq=now.seq + 5, mark=1)
    shard = FakeShard(matching=["a"], applied=[future, now])
    async with known(shard) as topology:
        assert (await delete(journal, topology, filter="n IS NULL")).deleted == 1
    assert len(shard.filters) == 2


async def test_nothing_is_deleted_where_a_shard_cannot_say(journal: Journal, uid: int) -> None:
    """Behind, stopped, or without the collection: UNAVAILABLE within the caller's time."""
    good = FakeShard(matching=["a"], applied=[head(journal, uid)])
    stopped = FakeShard(matching=["b"], applied=[head(journal, uid)])
    bad = {
        "behind": FakeShard(matching=["b"], applied=[Cursor()]),
        "no answer in time": stopped,
        "not_found": FakeShard(unknown={uid}),
    }
    for why, shard in bad.items():
        async with known(good, shard) as topology:
            if shard is stopped:
                shard.stop()
            with pytest.raises(Unavailable, match=f"shard 1: .*{why}"):
                await delete(journal, topology, seconds=0.5, filter="n IS NULL")
    assert left(journal, uid) == "abcdef"


async def test_nothing_is_deleted_where_a_shard_is_gone(journal: Journal, uid: int) -> None:
    """The caller hears of it at once: of one that died, and of one that never was."""
    good, gone = FakeShard(matching=["a"], applied=[head(journal, uid)]), FakeShard(index=1, shards=2)
    async with known(good):
        good.shards = 2
        async with serving(gone):
            topology = Topology([good.address, gone.address])
            await topology.probe_all()
        with pytest.raises(Unavailable, match="shard 1: unreachable"):
            await delete(journal, topology, filter="n IS NULL")
        await topology.close()
        topology = Topology([good.address, gone.address])
        with pytest.raises(Unavailable, match="no shard was heard of"):
            await delete(journal, topology, filter="n IS NULL")
        await topology.probe_all()
        with pytest.raises(Unavailable, match="shard 1: no process"):
            await delete(journal, topology, filter="n IS NULL")
        await topology.close()
    assert left(journal, uid) == "abcdef"


async def test_a_misplaced_shard_is_not_believed(journal: Journal, uid: int) -> None:
    """It holds other records than those that its place stands for."""
    shard = FakeShard(matching=["a"], applied=[head(journal, uid)])
    async with known(shard) as topology:
        shard.index = 1
        await topology.probe_all()
        with pytest.raises(Unavailable, match="shard 0: no process"):
            await delete(journal, topology, filter="n IS NULL")
    assert left(journal, uid) == "abcdef"


async def test_more_than_one_transaction(journal: Journal, uid: int) -> None:
    """What is deleted is counted over all of them."""
    names = [f"{index:05}" for index in range(10_001)]
    journal.store.write([Write(uid, [NewRecord(name, {}, vector=b"12345678") for name in names])])
    async with known(FakeShard(matching=names, applied=[head(journal, uid)])) as topology:
        response = await delete(journal, topology, filter="n IS NULL", seconds=60.0)
    assert (response.deleted, response.seq) == (10_001, 6 + 2 * 10_001)
    assert left(journal, uid) == "abcdef"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "ids"),
        ({"ids": ["a"], "filter": "n = 1"}, "filter"),
        ({"filter": "x = 1"}, "filter"),
        ({"filter": " "}, "filter"),
    ],
)
async def test_what_is_asked_wrongly(journal: Journal, uid: int, fields: dict[str, Any], field: str) -> None:
    """It is refused with its field, and no shard is asked."""
    with pytest.raises(InvalidArgument) as caught:
        await delete(journal, Topology([]), **fields)
    assert caught.value.field == field
    assert left(journal, uid) == "abcdef"


async def test_a_collection_that_is_gone(journal: Journal) -> None:
    with pytest.raises(NotFound):
        await matching.match(journal, Topology([]), 99, Filter(is_null="n"), Deadline.after(SOON))
