"""Processes that hold other records than the store: found, not asked, rebuilt, asked again."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from tests.server.fakes import SOON, FakeShard, in_time, running, sample, serving
from vitrail.rpc.digests import digest
from vitrail.rpc.errors import Unavailable
from vitrail.rpc.server import Context
from vitrail.rpc.slots import SLOTS, slot_of, slot_range
from vitrail.server.collections import CollectionService
from vitrail.server.digests import ask
from vitrail.server.embedding import Pipelines
from vitrail.server.fanout import Answer, Fanout, Parameters
from vitrail.server.freshness import wait_applied
from vitrail.server.journal import Journal
from vitrail.server.purging import Purging
from vitrail.server.quarantine import Quarantine
from vitrail.server.topology import QUARANTINED, Replica, Topology
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection, GetCollectionStatsRequest, PartitionStats
from vitrail.v1.shard_pb2 import GetDigestsRequest, GetDigestsResponse, RebuildRequest

CONTEXT: Any = None
NAMES = [f"r{number}" for number in range(40)]
DAMAGED = slot_of("r7")


class World:
    """Shards that a coordinator looks after, and the store whose log they say to have followed."""

    def __init__(self, journal: Journal, shards: Sequence[FakeShard]) -> None:
        self.journal = journal
        self.shards = shards
        self.topology = Topology([shard.address for shard in shards], lambda: 1)
        self.quarantine = Quarantine(journal, self.topology)

    def follow(self, shard: FakeShard, *, without: str = "") -> None:
        """Have a shard say that it holds all there is of its slots, but for one record."""
        begin, end = slot_range(shard.index, shard.shards)
        page = self.journal.store.page(1, (begin, end), 0, 1000)
        assert page is not None
        seqs, sums = np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.uint64)
        for row in page.rows:
            seqs[row.slot] = row.seq
            if row.id != without and not row.deleted:
                sums[row.slot] += np.uint64(digest(row.id.encode(), row.seq, row.vector, row.attributes))
        shard.digests = GetDigestsResponse(
            applied=page.head,
            slot_begin=begin,
            seqs=seqs[begin:end].tobytes(),
            sums=sums[begin:end].tobytes(),
            life=uuid4().hex,
        )

    async def write(self, *names: str) -> int:
        written = await self.journal.write(
            Write(1, [NewRecord(name, {}, vector=b"12345678") for name in names]), in_time()
        )
        return written.seq

    async def look(self) -> None:
        await self.quarantine.compare_all()
        await self.topology.probe_all()

    def replica(self, shard: FakeShard) -> Replica:
        return next(replica for replica in self.topology.replicas if replica.address == shard.address)

    def quarantined(self) -> list[FakeShard]:
        return [shard for shard in self.shards if self.replica(shard).failure == QUARANTINED]


@contextlib.asynccontextmanager
async def followed(journal: Journal, *shards: FakeShard) -> AsyncIterator[World]:
    """A collection of some records, which all shards hold."""
    await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    async with serving(*shards):
        world = World(journal, shards)
        await world.write(*NAMES)
        for shard in shards:
            world.follow(shard)
        await world.topology.probe_all()
        yield world
        await world.topology.close()


async def search(world: World) -> Answer:
    fanout = Fanout(world.topology, batch=8, capacity=64)
    parameters = Parameters(1, "", 3, 0, 0.0, exact=False, attributes=False)
    async with running(fanout.batcher):
        return await fanout.search(parameters, np.ones((1, 1), np.float32), in_time())


async def partitions(service: CollectionService) -> Sequence[PartitionStats]:
    request = GetCollectionStatsRequest(name="c")
    return (await service.GetCollectionStats(request, CONTEXT)).partitions


async def test_who_differs_from_the_store_is_left_out_until_it_was_rebuilt(journal: Journal) -> None:
    """One of two replicas; while it is left out the other one answers everything, though it is slower."""
    right, wrong = FakeShard(records={"r": [0.0, 1.0]}), FakeShard(records={"r": [0.0, 1.0]})
    async with followed(journal, right, wrong) as world:
        await world.look()
        assert not world.quarantined()
        assert sample("vitrail_digest_suspects") == 0
        world.follow(wrong, without="r7")
        assert wrong.digests is not None
        before, life = sample("vitrail_digest_mismatches_total"), wrong.digests.life
        await world.look()
        assert world.quarantined() == [wrong]
        assert (sample("vitrail_digest_suspects"), sample("vitrail_digest_mismatches_total") - before) == (1, 1)
        assert wrong.rebuilds == [RebuildRequest(collection_uid=1, life=life)]
        assert [sample("vitrail_replica_quarantined", address=each.address) for each in (right, wrong)] == [0, 1]
        assert sample("vitrail_replica_reachable", address=wrong.address) == 1
        (shard,) = world.topology.shards
        world.replica(right).outstanding = 50
        assert shard.pick() is shard.pick(silent=True) is world.replica(right)
        assert shard.failure == ""
        wrong.digests = None  # it is being rebuilt
        await world.look()
        assert world.quarantined() == [wrong]
        world.follow(wrong)
        await world.look()
        assert not world.quarantined()
        assert sample("vitrail_replica_quarantined", address=wrong.address) == 0
        assert len(wrong.rebuilds) == 1
        assert not right.rebuilds


async def test_who_was_not_rebuilt_is_told_again_and_stays(journal: Journal) -> None:
    """Though the slot in which it was wrong is right by now: others may not be."""
    right, wrong = FakeShard(), FakeShard()
    async with followed(journal, right, wrong) as world:
        world.follow(wrong, without="r7")
        assert wrong.digests is not None
        life = wrong.digests.life
        await world.look()
        world.follow(wrong)
        wrong.digests.life = life
        await world.look()
        assert world.quarantined() == [wrong]
        assert wrong.rebuilds == [RebuildRequest(collection_uid=1, life=life)] * 2
        world.follow(wrong, without="r8")  # rebuilt, and wrong again
        await world.look()
        assert world.quarantined() == [wrong]
        assert wrong.rebuilds[2] == RebuildRequest(collection_uid=1, life=wrong.digests.life)


async def test_a_shard_of_its_own_is_compared_with_the_store(journal: Journal) -> None:
    """One slot after the other, until each was compared once; and nobody else can answer for it."""
    alone, other = FakeShard(0, 2), FakeShard(1, 2)
    async with followed(journal, alone, other) as world:
        wrong = alone if DAMAGED < SLOTS // 2 else other
        world.follow(wrong, without="r7")
        before = sample("vitrail_digest_comparisons_total")
        for _ in range(SLOTS):
            await world.quarantine.compare_all()
            if world.quarantined():
                break
        assert world.quarantined() == [wrong]
        assert 1 <= sample("vitrail_digest_comparisons_total") - before <= SLOTS
        await world.topology.probe_all()
        answer = await search(world)
        assert [each.reason for each in answer.coverage.unreachable] == [QUARANTINED]
        assert answer.coverage.shards_searched == 1
        assert not wrong.requests


async def test_where_everyone_is_wrong_nobody_answers(journal: Journal) -> None:
    """Rather none than wrong answers; and those who wait for a write do not wait for them."""
    one, other = FakeShard(), FakeShard()
    async with followed(journal, one, other) as world:
        world.follow(one, without="r7")
        world.follow(other, without="r8")
        await world.look()
        assert world.quarantined() == [one, other]
        with pytest.raises(Unavailable, match="quarantined"):
            await search(world)
        await wait_applied(journal, world.topology, 1, len(NAMES), in_time())
        assert [*one.requests, *other.requests] == []


async def test_layouts_are_compared_too(journal: Journal) -> None:
    """The one that is right takes over."""
    alone, *halves = FakeShard(), FakeShard(0, 2), FakeShard(1, 2)
    async with followed(journal, alone, *halves) as world:
        assert len(world.topology.shards) == 1
        world.follow(alone, without="r7")
        await world.look()
        assert world.quarantined() == [alone]
        assert (await search(world)).coverage.shards_searched == 2
        assert len(world.topology.in_order()) == 3


async def test_what_cannot_be_told_is_not_judged(journal: Journal) -> None:
    """Where the store went on in that slot, where it does not know the place, and where it is away."""
    right, wrong = FakeShard(), FakeShard()
    async with followed(journal, right, wrong) as world:
        world.follow(wrong, without="r7")
        await world.write("r7")
        await world.look()
        assert not world.quarantined()
        world.follow(right)
        world.follow(wrong, without="r7")
        assert wrong.digests is not None
        mark = wrong.digests.applied.mark
        wrong.digests.applied.mark ^= 1
        await world.look()
        assert not world.quarantined()
        wrong.digests.applied.mark = mark
        with pytest.MonkeyPatch.context() as patch:

            def away(*_: object) -> None:
                raise Unavailable("the store failed")

            patch.setattr(type(journal.store), "page", away)
            await world.look()
            assert not world.quarantined()
            assert sample("vitrail_digest_suspects") == 1
        await world.look()
        assert world.quarantined() == [wrong]


async def test_a_process_that_is_forgotten_while_it_is_judged(journal: Journal) -> None:
    """Its channel is closed by then, which ends nothing else."""
    wrong = FakeShard()

    class Forgetting(FakeShard):
        async def GetDigests(self, request: GetDigestsRequest, context: Context) -> GetDigestsResponse:  # noqa: N802
            world.topology.use([self.address])
            return await super().GetDigests(request, context)

    async with followed(journal, Forgetting(), wrong) as world:
        world.follow(wrong, without="r7")
        (forgotten,) = [replica for replica in world.topology.replicas if replica.address == wrong.address]
        before = sample("vitrail_digest_mismatches_total")
        await world.look()
        assert sample("vitrail_digest_mismatches_total") - before == 1
        assert not wrong.rebuilds
        assert await ask(forgotten, 1, 1.0) is None


async def test_a_collection_that_is_gone_keeps_nobody_in_quarantine(journal: Journal) -> None:
    """With it went what was wrong."""
    right, wrong = FakeShard(), FakeShard()
    async with followed(journal, right, wrong) as world:
        world.follow(wrong, without="r7")
        await world.look()
        assert world.quarantined() == [wrong]
        await journal.change_catalog(journal.store.delete_collection, 1)
        await world.look()
        assert not world.quarantined()


async def test_what_is_shown_of_digests(journal: Journal) -> None:
    """Of each process at its own `seq`; those of a layout add up to the same."""
    shards = FakeShard(), FakeShard(), FakeShard(0, 2), FakeShard(1, 2)
    async with followed(journal, *shards) as world:
        service = CollectionService(
            journal, Pipelines([]), world.topology, SOON, "", Purging(journal, world.topology, 1)
        )
        one, same, *halves = await partitions(service)
        assert one.digest == same.digest != ""
        assert one.seq == len(NAMES)
        assert (int(halves[0].digest, 16) + int(halves[1].digest, 16)) % 2**64 == int(one.digest, 16)
        wrong, silent = shards[:2]
        world.follow(wrong, without="r7")
        await world.look()
        silent.digests = None
        shown = {each.address: each for each in await partitions(service)}
        assert shown[wrong.address].quarantined
        assert shown[wrong.address].reachable
        assert shown[wrong.address].digest != one.digest
        assert (shown[silent.address].digest, shown[silent.address].quarantined) == ("", False)
