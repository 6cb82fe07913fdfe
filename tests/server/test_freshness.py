import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.server.fakes import FakeShard, in_time, serving
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, NotFound, Unavailable
from vitrail.server.freshness import wait_applied, wait_settled
from vitrail.server.journal import Journal
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection


@pytest.fixture
async def uid(journal: Journal) -> int:
    """A collection whose log ends at 3."""
    made = await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    await journal.read(journal.store.write, [Write(made.uid, [NewRecord(name, {}, vector=b"1") for name in "abc"])])
    assert made.uid == 1  # what fake shards speak of
    return made.uid


@contextlib.asynccontextmanager
async def known(*shards: FakeShard) -> AsyncIterator[Topology]:
    async with serving(*shards):
        topology = Topology([shard.address for shard in shards])
        await topology.probe_all()
        yield topology
        await topology.close()


async def test_waits_for_those_that_are_behind(journal: Journal, uid: int) -> None:
    """Until each replica of each shard has applied it, and no longer."""
    shards = [FakeShard(0, 2, seq=3), FakeShard(1, 2, seq=3), FakeShard(1, 2, seq=2)]
    async with known(*shards) as topology:
        await wait_applied(journal, topology, uid, 2, in_time())
        waiting = asyncio.create_task(wait_applied(journal, topology, uid, 3, in_time()))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        shards[2].seq = 3
        await waiting


async def test_does_not_wait_for_those_that_are_not_asked(journal: Journal, uid: int) -> None:
    """One that cannot be reached is missing in the answer anyway, and one of another layout is not in it."""
    gone, young, old = FakeShard(1, 2, seq=1), FakeShard(0, 3, seq=0, ready=False), FakeShard(0, 2, seq=3)
    async with known(gone, young, old) as topology:
        topology.replicas[0].failure = "unreachable"
        await wait_applied(journal, topology, uid, 3, in_time())


async def test_not_in_time(journal: Journal, uid: int) -> None:
    """The caller hears which replica is how far."""
    shard = FakeShard(seq=2)
    async with known(shard) as topology:
        with pytest.raises(Unavailable, match=f"up to 3 .*{shard.address} at 2") as caught:
            await wait_applied(journal, topology, uid, 3, Deadline.after(0.1))
    assert caught.value.retry_after is not None


async def test_a_seq_that_never_was(journal: Journal, uid: int) -> None:
    """Nobody will ever have applied it; nor anything of a collection that was deleted."""
    async with known(FakeShard(seq=3)) as topology:
        with pytest.raises(FailedPrecondition, match="ends at 3, before 4"):
            await wait_applied(journal, topology, uid, 4, in_time())
        await journal.change_catalog(journal.store.delete_collection, uid)
        with pytest.raises(NotFound):
            await wait_applied(journal, topology, uid, 4, in_time())


async def test_waits_for_an_index_where_there_are_records_enough() -> None:
    """Until each replica that has as many as one needs is trained; the caller hears of those that are not in time."""
    large, small = FakeShard(0, 2, records={"a": [1.0], "b": [1.0]}), FakeShard(1, 2, records={"a": [1.0]})
    collection = Collection(uid=1, train_at=2)
    async with known(large, small) as topology:
        with pytest.raises(Unavailable, match=large.address) as caught:
            await wait_settled(topology, collection, Deadline.after(0.1))
        assert small.address not in str(caught.value)
        large.trained = True
        await topology.probe_all()
        await wait_settled(topology, collection, in_time())


async def test_a_write_that_the_store_knows(journal: Journal, uid: int) -> None:
    """By its mark, whatever it was that came after it."""
    (first,) = await journal.read(journal.store.write, [Write(uid, [NewRecord("d", {}, vector=b"1")])])
    assert isinstance(first, Written)
    await journal.read(journal.store.write, [Write(uid, deletes=["a"])])
    mark = (await journal.read(journal.store.heads)).marks[uid]
    async with known(FakeShard(seq=5, mark=mark)) as topology:
        await wait_applied(journal, topology, uid, first.seq, in_time(), first.mark)


async def test_a_write_of_another_history(journal: Journal, uid: int) -> None:
    """The log goes as far, and shards are as far, but the store went back to before that write."""
    mark = (await journal.read(journal.store.heads)).marks[uid]
    async with known(FakeShard(seq=3, mark=mark)) as topology:
        await wait_applied(journal, topology, uid, 3, in_time(), mark)
        with pytest.raises(FailedPrecondition, match="does not know the write at 3") as caught:
            await wait_applied(journal, topology, uid, 3, in_time(), mark ^ 1)
        assert caught.value.field == "min_mark"


async def test_what_shards_have_of_another_history_does_not_count(journal: Journal, uid: int) -> None:
    """One that is further by its number alone is waited for until it was told to begin again."""
    mark = (await journal.read(journal.store.heads)).marks[uid]
    shard = FakeShard(seq=9, mark=mark ^ 1)
    async with known(shard) as topology:
        waiting = asyncio.create_task(wait_applied(journal, topology, uid, 3, in_time(), mark))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        shard.seq, shard.mark = 3, mark
        await waiting
        shard.seq, shard.mark = 9, 1
        await topology.probe_all()
        with pytest.raises(Unavailable, match="at 9"):
            await wait_applied(journal, topology, uid, 3, Deadline.after(0.1), mark)
