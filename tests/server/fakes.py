"""What the tests of the coordinator share: shards that answer as they are told, and waiting for a condition."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from vitrail.rpc.channel import OPTIONS
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.protocol import this_program
from vitrail.rpc.server import Context
from vitrail.rpc.vectors import FLOAT32, from_bytes
from vitrail.server.batching import Batcher, R, T
from vitrail.v1.collection_pb2 import Collection, IndexStats
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import (
    CompactRequest,
    CompactResponse,
    GetDigestsRequest,
    GetDigestsResponse,
    GetStatusRequest,
    GetStatusResponse,
    GroupResult,
    MatchIdsRequest,
    MatchIdsResponse,
    PartitionStatus,
    RebuildRequest,
    RebuildResponse,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchGroup,
)
from vitrail.v1.shard_pb2_grpc import ShardServiceServicer, add_ShardServiceServicer_to_server
from vitrail.v1.types_pb2 import Program

Floats = NDArray[np.float32]

PATIENCE = 20.0
SOON = 10.0


async def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return once a condition holds, fail if it does not within `patience` seconds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


def in_time() -> Deadline:
    """A deadline that is not what a test is about."""
    return Deadline.after(SOON)


def sample(name: str, **labels: str) -> float:
    """The value of a metric, 0 where it was never set."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def reported(name: str) -> list[dict[str, str]]:
    """The labels of all that is reported of a metric, once each."""
    labels = []
    for metric in REGISTRY.collect():
        for each in metric.samples if metric.name == name else ():
            kept = {key: value for key, value in each.labels.items() if key != "le"}
            labels += [kept] if kept not in labels else []
    return labels


@contextlib.asynccontextmanager
async def running(batcher: Batcher[T, R]) -> AsyncIterator[None]:
    """Have a queue emptied until the block ends."""
    owner = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        owner.cancel()
        await asyncio.gather(owner, return_exceptions=True)


@dataclass(eq=False)
class FakeShard(ShardServiceServicer):
    """A shard that compares every record, by inner product, and answers nothing while it is stopped.

    Attributes:
        index: Which shard it says that it is.
        shards: Of how many.
        ready: Whether it says that it has caught up.
        records: Their vectors by id; those of every collection but the `unknown` ones.
        unknown: Uids of collections that it does not know.
        seq: Applied up to here.
        mark: Beside `seq`.
        clean_seq: Nothing of what was deleted up to here is left.
        keeps_dead_rows: Whether it never compacts.
        trained: Whether it says that it is.
        train_at: What it knows of the collection.
        reached: The last row that it says it has applied.
        index_stats: What it says of its index.
        matching: Ids that meet every filter.
        applied: What it says it has applied, one cursor a time that it is asked for ids; the last one for ever.
        malformed: Whether it answers with a result too many.
        digests: What it says that it held at its last checkpoint; None before the first one.
        rebuilds: All orders to rebuild a partition, in order.
        requests: All batches that came, in order.
        probes: How often it was asked for its status.
        program: What it says runs there.
        refusal: Why it tells this coordinator nothing.
        filters: All filters whose ids were asked for, in order.
    """

    index: int = 0
    shards: int = 1
    ready: bool = True
    records: Mapping[str, list[float]] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    seq: int = 1
    mark: int = 0
    clean_seq: int = 0
    keeps_dead_rows: bool = False
    trained: bool = False
    train_at: int = 10_000
    reached: int = 0
    index_stats: IndexStats = field(default_factory=IndexStats)
    matching: Sequence[str] = ()
    applied: list[Cursor] = field(default_factory=lambda: [Cursor()])
    filters: list[Filter] = field(default_factory=list)
    malformed: bool = False
    digests: GetDigestsResponse | None = None
    rebuilds: list[RebuildRequest] = field(default_factory=list)
    requests: list[SearchBatchRequest] = field(default_factory=list)
    probes: int = 0
    program: Program = field(default_factory=this_program)
    refusal: str = ""
    address: str = ""
    _going: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._going.set()

    def stop(self) -> None:
        """Answer nothing from now on, as a stopped process does, but go on listening."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    async def SearchBatch(self, request: SearchBatchRequest, context: Context) -> SearchBatchResponse:  # noqa: N802
        self.requests.append(request)
        await self._going.wait()
        results = [self._search(group) for group in request.groups]
        return SearchBatchResponse(results=results + results[:1] * self.malformed)

    async def GetStatus(self, request: GetStatusRequest, context: Context) -> GetStatusResponse:  # noqa: N802
        self.probes += 1
        await self._going.wait()
        if self.refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        partition = PartitionStatus(
            collection_uid=1,
            records=len(self.records),
            applied=Cursor(collection_uid=1, seq=self.seq, mark=self.mark),
            index=self.index_stats,
            reached=self.reached,
            clean_seq=self.clean_seq,
            state="trained" if self.trained else "exact",
        )
        return GetStatusResponse(
            shard=self.index,
            shards=self.shards,
            ready=self.ready,
            partitions=[partition],
            collections=[Collection(uid=1, train_at=self.train_at)],
            program=self.program,
        )

    async def MatchIds(  # noqa: N802
        self, request: MatchIdsRequest, context: Context
    ) -> AsyncIterator[MatchIdsResponse]:
        self.filters.append(request.filter)
        await self._going.wait()
        if request.collection_uid in self.unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown collection")
        applied = self.applied[0] if len(self.applied) == 1 else self.applied.pop(0)
        for start in range(0, max(1, len(self.matching)), 2):
            yield MatchIdsResponse(ids=self.matching[start : start + 2], applied=applied)

    async def GetDigests(self, request: GetDigestsRequest, context: Context) -> GetDigestsResponse:  # noqa: N802
        await self._going.wait()
        if self.digests is None or request.collection_uid in self.unknown:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not caught up")
        assert self.digests is not None
        return self.digests

    async def Rebuild(self, request: RebuildRequest, context: Context) -> RebuildResponse:  # noqa: N802
        self.rebuilds.append(request)
        return RebuildResponse()

    async def Compact(self, request: CompactRequest, context: Context) -> CompactResponse:  # noqa: N802
        if not self.keeps_dead_rows:
            self.clean_seq = max(self.clean_seq, request.seq)
        return CompactResponse()

    def _search(self, group: SearchGroup) -> GroupResult:
        if group.collection_uid in self.unknown:
            return GroupResult(error="unknown collection")
        dimension = len(next(iter(self.records.values()), [0.0]))
        result = GroupResult(
            records=len(self.records),
            applied=Cursor(collection_uid=group.collection_uid, seq=self.seq),
            trained=self.trained,
            exact=not self.trained,
            version=f"v{self.index}",
        )
        for query in from_bytes(group.vectors, dimension):
            scored = sorted(
                (-float(query @ np.array(vector, np.float32)), name) for name, vector in self.records.items()
            )
            best = scored[: group.top_k]
            result.counts.append(len(best))
            result.ids.extend(name for _, name in best)
            result.scores += np.array([-score for score, _ in best], FLOAT32).tobytes()
        return result


@contextlib.asynccontextmanager
async def serving(*shards: FakeShard) -> AsyncIterator[None]:
    """Serve shards on free ports, each at its `address`, until the block ends."""
    servers = []
    for shard in shards:
        server = grpc.aio.server(options=OPTIONS)
        add_ShardServiceServicer_to_server(shard, server)
        shard.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            await server.stop(None)
