"""Collections: made, listed, changed, deleted, and what shards say of their partitions."""

import asyncio
from functools import partial

from vitrail.rpc.errors import FailedPrecondition, InvalidArgument
from vitrail.rpc.server import Context
from vitrail.server import metrics, validate
from vitrail.server.digests import Held, ask
from vitrail.server.embedder import Embedder
from vitrail.server.journal import Journal
from vitrail.server.topology import PROBE_TIMEOUT, QUARANTINED, Replica, Topology
from vitrail.v1.collection_pb2 import (
    Collection,
    CreateCollectionRequest,
    CreateCollectionResponse,
    DeleteCollectionRequest,
    DeleteCollectionResponse,
    GetCollectionRequest,
    GetCollectionResponse,
    GetCollectionStatsRequest,
    GetCollectionStatsResponse,
    ListCollectionsRequest,
    ListCollectionsResponse,
    PartitionStats,
    UpdateCollectionRequest,
    UpdateCollectionResponse,
)
from vitrail.v1.collection_pb2_grpc import CollectionServiceServicer
from vitrail.v1.types_pb2 import Metric


class CollectionService(CollectionServiceServicer):
    """Keeps the catalog."""

    def __init__(self, journal: Journal, embedder: Embedder, topology: Topology, metrics_address: str) -> None:
        self._journal = journal
        self._embedder = embedder
        self._topology = topology
        self._metrics_address = metrics_address

    async def CreateCollection(  # noqa: N802
        self, request: CreateCollectionRequest, context: Context
    ) -> CreateCollectionResponse:
        validate.collection_name(request.name)
        validate.attribute_types(request.attributes)
        collection = Collection(
            name=request.name,
            metric=validate.metric(request.metric or Metric.METRIC_COSINE),
            attributes=request.attributes,
            train_at=validate.train_at(request.train_at or validate.DEFAULT_TRAIN_AT),
            thumbnails=request.thumbnails,
        )
        if request.embedder or not request.dimension:
            self._use_embedder(collection, request)
        else:
            collection.dimension = validate.dimension(request.dimension)
        if request.HasField("index"):
            validate.index_options(request.index, collection.dimension)
            collection.index.CopyFrom(request.index)
        collection.create_time.GetCurrentTime()
        created = await self._journal.change_catalog(self._journal.store.create_collection, collection)
        return CreateCollectionResponse(collection=created)

    async def GetCollection(self, request: GetCollectionRequest, context: Context) -> GetCollectionResponse:  # noqa: N802
        return GetCollectionResponse(collection=self._journal.catalog.get(request.name, field="name"))

    async def ListCollections(  # noqa: N802
        self, request: ListCollectionsRequest, context: Context
    ) -> ListCollectionsResponse:
        return ListCollectionsResponse(collections=self._journal.catalog.all())

    async def UpdateCollection(  # noqa: N802
        self, request: UpdateCollectionRequest, context: Context
    ) -> UpdateCollectionResponse:
        validate.attribute_types(request.attributes)
        if request.HasField("train_at"):
            validate.train_at(request.train_at)
        collection = self._journal.catalog.get(request.name, field="name")
        validate.index_options(request.index, collection.dimension)
        change = partial(_change, request)
        changed = await self._journal.change_catalog(self._journal.store.update_collection, collection.uid, change)
        return UpdateCollectionResponse(collection=changed)

    async def DeleteCollection(  # noqa: N802
        self, request: DeleteCollectionRequest, context: Context
    ) -> DeleteCollectionResponse:
        collection = self._journal.catalog.get(request.name, field="name")
        await self._journal.change_catalog(self._journal.store.delete_collection, collection.uid)
        for gauge in (metrics.RECORDS, metrics.SEQ):
            gauge.remove_by_labels({"collection": request.name})
        return DeleteCollectionResponse()

    async def GetCollectionStats(  # noqa: N802
        self, request: GetCollectionStatsRequest, context: Context
    ) -> GetCollectionStatsResponse:
        collection = self._journal.catalog.get(request.name, field="name")
        heads = await self._journal.read(self._journal.store.heads)
        records, seq = heads.collections.get(collection.uid, (0, 0))
        await self._topology.probe_all()
        replicas = self._topology.in_order()
        held = await asyncio.gather(*(ask(replica, collection.uid, PROBE_TIMEOUT) for replica in replicas))
        return GetCollectionStatsResponse(
            collection=collection,
            records=records,
            seq=seq,
            partitions=[_stats(*each, collection.uid) for each in zip(replicas, held, strict=True)],
            metrics_address=self._metrics_address,
        )

    def _use_embedder(self, collection: Collection, request: CreateCollectionRequest) -> None:
        if request.embedder not in ("", self._embedder.name):
            raise InvalidArgument(
                f"this server has {self._embedder.name!r}, not {request.embedder!r}", field="embedder"
            )
        if request.dimension not in (0, self._embedder.dimension):
            raise InvalidArgument(
                f"{self._embedder.name!r} makes {self._embedder.dimension} dimensions, not {request.dimension}",
                field="dimension",
            )
        collection.embedder = self._embedder.name
        collection.space = self._embedder.space
        collection.dimension = self._embedder.dimension


def _change(request: UpdateCollectionRequest, collection: Collection) -> None:
    if request.HasField("train_at"):
        collection.train_at = request.train_at
    if request.HasField("thumbnails"):
        collection.thumbnails = request.thumbnails
    if request.HasField("index"):
        collection.index.CopyFrom(request.index)
    for name, kind in request.attributes.items():
        if collection.attributes.get(name, kind) != kind:
            raise FailedPrecondition("its type is fixed already", field=f"attributes.{name}")
        collection.attributes[name] = kind


def _stats(replica: Replica, held: Held | None, uid: int) -> PartitionStats:
    stats = PartitionStats(
        address=replica.address,
        reachable=replica.failure in ("", QUARANTINED),
        quarantined=bool(replica.diverged),
    )
    if replica.status is not None:
        stats.shard, stats.shards = replica.status.shard, replica.status.shards
        stats.metrics_address = replica.metrics_address
    if partition := replica.partition(uid):
        stats.state = partition.state
        stats.records = partition.records
        stats.tail = partition.tail
        stats.seq = partition.applied.seq
        stats.busy = partition.busy
        stats.version = partition.version
        stats.recipe = partition.recipe
        stats.nprobe = partition.nprobe
        if partition.HasField("index"):
            stats.index.CopyFrom(partition.index)
    if held is not None:
        stats.seq, stats.digest = held.applied.seq, held.digest
    return stats
