"""The shards as processes: what there is, and how many are wanted."""

from vitrail.rpc.errors import InvalidArgument
from vitrail.rpc.server import Context
from vitrail.rpc.slots import SLOTS
from vitrail.server.journal import Journal
from vitrail.server.store import Heads
from vitrail.server.topology import TRAINING, Replica, Topology
from vitrail.v1.cluster_pb2 import (
    GetShardsRequest,
    GetShardsResponse,
    SetShardsRequest,
    SetShardsResponse,
    ShardProcess,
)
from vitrail.v1.cluster_pb2_grpc import ClusterServiceServicer


class ClusterService(ClusterServiceServicer):
    """Shows the layouts, and says which one is wanted."""

    def __init__(self, journal: Journal, topology: Topology) -> None:
        self._journal = journal
        self._topology = topology

    async def GetShards(self, request: GetShardsRequest, context: Context) -> GetShardsResponse:  # noqa: N802
        heads = await self._journal.read(self._journal.store.heads)
        await self._topology.probe_all()
        return GetShardsResponse(
            serving=len(self._topology.shards),
            wanted=self._journal.catalog.wanted_shards,
            processes=[_process(replica, heads, len(self._topology.shards)) for replica in self._topology.in_order()],
        )

    async def SetShards(self, request: SetShardsRequest, context: Context) -> SetShardsResponse:  # noqa: N802
        if not 1 <= request.shards <= SLOTS:
            raise InvalidArgument(f"must be from 1 to {SLOTS}", field="shards")
        await self._journal.change_catalog(self._journal.store.want_shards, request.shards)
        return SetShardsResponse()


def _process(replica: Replica, heads: Heads, serving: int) -> ShardProcess:
    shard, shards = replica.place or (0, 0)
    waits = TRAINING if shards != serving and not replica.is_settled else ""
    seqs = {uid: seq for uid, (_, seq) in heads.collections.items()}
    return ShardProcess(
        address=replica.address,
        shard=shard,
        shards=shards,
        failure=replica.failure or waits,
        behind=sum(max(0, seq - replica.reached(uid)) for uid, seq in seqs.items()),
        records=sum(replica.records.values()),
        metrics_address=replica.metrics_address,
        head=sum(seqs.values()),
        program=replica.program,
    )
