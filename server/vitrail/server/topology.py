"""The shards: where they are, what each last said of itself, and which of them can be asked now."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import structlog

from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.server import metrics
from vitrail.v1.shard_pb2 import GetStatusRequest, GetStatusResponse, PartitionStatus
from vitrail.v1.shard_pb2_grpc import ShardServiceStub

if TYPE_CHECKING:
    from vitrail.v1.shard_pb2_grpc import ShardServiceAsyncStub

log = structlog.get_logger()

PROBE_SECONDS = 0.25
PROBE_TIMEOUT = 1.0
# A shard that still holds this many batches after they were overdue is not asked again until a probe answers.
MAX_OVERDUE = 2


@dataclass(slots=True, eq=False)
class Shard:
    """One shard as the coordinator knows it."""

    index: int
    address: str
    channel: grpc.aio.Channel
    failure: str = "not yet heard of"
    """Why it cannot be asked, or empty."""
    misplaced: bool = False
    """Whether it says that it is another shard than the one that this address stands for."""
    status: GetStatusResponse | None = None
    records: dict[int, int] = field(default_factory=dict)
    """Live records by collection uid, as last heard in a status or an answer."""
    overdue: int = 0
    """Batches that others no longer wait for and it has not answered."""
    stub: "ShardServiceAsyncStub" = field(init=False)

    def __post_init__(self) -> None:
        self.stub = ShardServiceStub(self.channel)

    def partition(self, uid: int) -> PartitionStatus | None:
        """What it last said of one collection."""
        partitions = self.status.partitions if self.status else ()
        return next((partition for partition in partitions if partition.collection_uid == uid), None)

    def heard(self, status: GetStatusResponse, shards: int) -> None:
        """Take what it says of itself."""
        self.status = status
        self.records = {partition.collection_uid: partition.records for partition in status.partitions}
        self.failure = ""
        self.overdue = 0
        self.misplaced = (status.shard, status.shards) != (self.index, shards)
        if self.misplaced:
            self.failure = f"says that it is shard {status.shard} of {status.shards}, not {self.index} of {shards}"

    @property
    def can_be_asked(self) -> bool:
        """A shard that failed is asked all the same, since that is how it comes back; a stopped one is not."""
        return self.overdue < MAX_OVERDUE and not self.misplaced


class Topology:
    """The shards in the order of their index. `run` asks each for its status, again and again."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.shards = [
            Shard(index, address, grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS))
            for index, address in enumerate(addresses)
        ]

    async def run(self) -> None:
        """Probe all shards until cancelled."""
        await asyncio.gather(*(self._probe_for_ever(shard) for shard in self.shards))

    async def probe_all(self) -> None:
        """Ask every shard for its status now."""
        await asyncio.gather(*map(self.probe, self.shards))

    async def probe(self, shard: Shard) -> None:
        """Ask one shard for its status now."""
        try:
            status = await shard.stub.GetStatus(GetStatusRequest(), timeout=PROBE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            was = shard.failure
            shard.failure = reason(error)
            if not was:
                log.warning("lost a shard", shard=shard.index, address=shard.address, why=shard.failure)
        else:
            if shard.failure:
                log.info("found a shard", shard=shard.index, address=shard.address)
            shard.heard(status, len(self.shards))
        metrics.SHARD_REACHABLE.labels(shard.index).set(not shard.failure)

    async def close(self) -> None:
        for shard in self.shards:
            await shard.channel.close()

    async def _probe_for_ever(self, shard: Shard) -> None:
        while True:
            await self.probe(shard)
            await asyncio.sleep(PROBE_SECONDS)


def reason(error: grpc.aio.AioRpcError) -> str:
    """Why a shard did not answer, in a word or two."""
    return {
        grpc.StatusCode.UNAVAILABLE: "unreachable",
        grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    }.get(error.code(), error.code().name.lower())
