import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from vitrail.rpc import vectors
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, Unavailable
from vitrail.server.fanout import Answer, Fanout, Parameters
from vitrail.server.topology import Topology
from vitrail.v1.shard_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    GroupResult,
    PartitionStatus,
    SearchBatchRequest,
    SearchBatchResponse,
)
from vitrail.v1.shard_pb2_grpc import ShardServiceServicer, add_ShardServiceServicer_to_server

PARAMETERS = Parameters(1, "space", top_k=3, nprobe=0, rerank_factor=0.0, exact=False, attributes=False)


class FakeShard(ShardServiceServicer):
    """Finds one record a query: the shard's number with the query's first component as its score."""

    def __init__(self, index: int, shards: int) -> None:
        self.index, self.shards = index, shards
        self.batches: list[list[int]] = []
        self.error = ""
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked = asyncio.Event()

    async def SearchBatch(self, request: SearchBatchRequest, context: Any) -> SearchBatchResponse:  # noqa: N802
        groups = [vectors.from_bytes(group.vectors, 2) for group in request.groups]
        self.batches.append([len(group) for group in groups])
        self.asked.set()
        await self.answering.wait()
        if self.error:
            return SearchBatchResponse(results=[GroupResult(error=self.error) for _ in groups])
        return SearchBatchResponse(
            results=[
                GroupResult(
                    counts=[1] * len(group),
                    ids=[f"s{self.index}"] * len(group),
                    scores=(group[:, 0] + self.index).astype("<f4").tobytes(),
                    records=10,
                )
                for group in groups
            ]
        )

    async def GetStatus(self, request: GetStatusRequest, context: Any) -> GetStatusResponse:  # noqa: N802
        await self.answering.wait()
        return GetStatusResponse(
            shard=self.index, shards=self.shards, partitions=[PartitionStatus(collection_uid=1, records=10)]
        )


class Stand:
    """A fan-out to fake shards on real sockets."""

    def __init__(self, fakes: list[FakeShard], servers: list[Any], topology: Topology, fanout: Fanout) -> None:
        self.fakes, self.servers, self.topology, self.fanout = fakes, servers, topology, fanout

    async def search(self, *first: float, seconds: float = 30.0, parameters: Parameters = PARAMETERS) -> Answer:
        queries = np.array([[value, 0.0] for value in first], np.float32)
        return await self.fanout.search(parameters, queries, Deadline.after(seconds))


@asynccontextmanager
async def stand(shards: int) -> AsyncIterator[Stand]:
    fakes, servers, addresses = [], [], []
    for index in range(shards):
        fake, server = FakeShard(index, shards), grpc.aio.server()
        add_ShardServiceServicer_to_server(fake, server)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        fakes.append(fake)
        servers.append(server)
    topology = Topology(addresses)
    await topology.probe_all()
    fanout = Fanout(topology, batch=64, capacity=256)
    task = asyncio.create_task(fanout.batcher.run())
    yield Stand(fakes, servers, topology, fanout)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for fake in fakes:
        fake.answering.set()
    await topology.close()
    for server in servers:
        await server.stop(None)


Make = Callable[[int], Awaitable[Stand]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    open_stands: list[Any] = []

    async def make(shards: int) -> Stand:
        context = stand(shards)
        open_stands.append(context)
        return await context.__aenter__()

    yield make
    for context in open_stands:
        await context.__aexit__(None, None, None)


async def test_every_shard_is_asked_and_hits_are_merged(make: Make) -> None:
    """One call a shard; the best come first, and the coverage is whole."""
    cluster = await make(3)
    answer = await cluster.search(1.0)
    assert [(found.id, -found.negative_score) for found in answer.hits[0]] == [("s2", 3.0), ("s1", 2.0), ("s0", 1.0)]
    assert (answer.coverage.fraction, answer.coverage.records_total) == (1.0, 30)
    assert [fake.batches for fake in cluster.fakes] == [[[1]]] * 3


async def test_what_arrives_during_a_batch_is_the_next_batch(make: Make) -> None:
    """One batch in flight: the queries of three callers go together in one call, grouped by what they ask for."""
    cluster = await make(1)
    (fake,) = cluster.fakes
    fake.answering.clear()
    first = asyncio.create_task(cluster.search(1.0))
    await fake.asked.wait()
    exact = PARAMETERS._replace(exact=True)
    asked = (cluster.search(2.0), cluster.search(3.0, 4.0), cluster.search(5.0, parameters=exact))
    others = [asyncio.create_task(search) for search in asked]
    await asyncio.sleep(0)
    fake.answering.set()
    answers = await asyncio.gather(first, *others)
    assert fake.batches == [[1], [3, 1]]
    assert [[-hits[0].negative_score for hits in answer.hits] for answer in answers] == [
        [1.0],
        [2.0],
        [3.0, 4.0],
        [5.0],
    ]


async def test_a_dead_shard_makes_a_partial_answer_that_says_so(make: Make) -> None:
    """The others' hits come, and the coverage names who is missing and counts what it was known to hold."""
    cluster = await make(2)
    await cluster.servers[1].stop(None)
    answer = await cluster.search(1.0)
    assert [found.id for found in answer.hits[0]] == ["s0"]
    assert (answer.coverage.shards_searched, answer.coverage.fraction) == (1, 0.5)
    assert [(each.shard, each.reason) for each in answer.coverage.unreachable] == [(1, "unreachable")]


async def test_no_shard_at_all_is_an_error(make: Make) -> None:
    """Nothing to answer with: UNAVAILABLE where none can be reached, DEADLINE_EXCEEDED where none answered in time."""
    cluster = await make(2)
    for fake in cluster.fakes:
        fake.answering.clear()
    with pytest.raises(DeadlineExceeded):
        await cluster.search(1.0, seconds=0.2)
    for server in cluster.servers:
        await server.stop(None)
    with pytest.raises(Unavailable):
        await cluster.search(1.0)


async def test_a_shard_that_has_not_heard_of_a_collection_is_no_error(make: Make) -> None:
    """It is declared as not searched, with its reason."""
    cluster = await make(2)
    cluster.fakes[0].error = "unknown collection"
    answer = await cluster.search(1.0)
    assert [found.id for found in answer.hits[0]] == ["s1"]
    assert [each.reason for each in answer.coverage.unreachable] == ["unknown collection"]


async def test_a_stopped_shard_holds_up_nobody(make: Make) -> None:
    """Callers are answered in time with the rest; after two overdue batches it is left out, until a probe answers."""
    cluster = await make(2)
    stopped = cluster.fakes[1]
    stopped.answering.clear()
    answers = await asyncio.gather(*(cluster.search(1.0, seconds=4.0) for _ in range(3)))
    assert all(answer.coverage.shards_searched == 1 for answer in answers)
    answers = [await cluster.search(1.0, seconds=4.0) for _ in range(2)]
    asked = len(stopped.batches)
    start = time.monotonic()
    answer = await cluster.search(1.0, seconds=60.0)
    assert answer.coverage.shards_searched == 1
    assert time.monotonic() - start < 30.0
    assert len(stopped.batches) == asked
    stopped.answering.set()
    await cluster.topology.probe_all()
    assert (await cluster.search(1.0)).coverage.fraction == 1.0


async def test_a_shard_that_claims_another_place_is_not_asked(make: Make) -> None:
    """A shard of another layout would answer for other slots."""
    cluster = await make(2)
    cluster.fakes[1].index = 0
    await cluster.topology.probe_all()
    answer = await cluster.search(1.0)
    assert answer.coverage.shards_searched == 1
    assert "says that it is shard 0 of 2" in answer.coverage.unreachable[0].reason
    assert cluster.fakes[1].batches == []
