"""Collections and their versions: made, listed, changed, deleted, and what shards say of their partitions."""

import asyncio
from functools import partial

from vitrail.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from vitrail.rpc.server import Context
from vitrail.server import validate
from vitrail.server.deadlines import deadline_of
from vitrail.server.digests import Held, ask
from vitrail.server.embedding import Pipelines
from vitrail.server.freshness import wait_applied, wait_settled
from vitrail.server.journal import Journal
from vitrail.server.purging import Purging
from vitrail.server.topology import PROBE_TIMEOUT, QUARANTINED, Replica, Topology
from vitrail.v1.collection_pb2 import (
    ActivateVersionRequest,
    ActivateVersionResponse,
    Collection,
    CreateCollectionRequest,
    CreateCollectionResponse,
    CreateVersionRequest,
    CreateVersionResponse,
    DeleteCollectionRequest,
    DeleteCollectionResponse,
    DeleteVersionRequest,
    DeleteVersionResponse,
    GetCollectionRequest,
    GetCollectionResponse,
    GetCollectionStatsRequest,
    GetCollectionStatsResponse,
    ListCollectionsRequest,
    ListCollectionsResponse,
    ListVersionsRequest,
    ListVersionsResponse,
    PartitionStats,
    PurgeCollectionRequest,
    PurgeCollectionResponse,
    UpdateCollectionRequest,
    UpdateCollectionResponse,
    Version,
)
from vitrail.v1.collection_pb2_grpc import CollectionServiceServicer
from vitrail.v1.types_pb2 import Metric


class CollectionService(CollectionServiceServicer):
    """Keeps the catalog."""

    def __init__(
        self,
        journal: Journal,
        pipelines: Pipelines,
        topology: Topology,
        default_timeout: float,
        metrics_address: str,
        purging: Purging,
    ) -> None:
        self._journal = journal
        self._pipelines = pipelines
        self._topology = topology
        self._default_timeout = default_timeout
        self._metrics_address = metrics_address
        self._purging = purging

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
            keep_images=request.keep_images,
        )
        self._complete(collection, request)
        created = await self._journal.change_catalog(self._journal.store.create_collection, collection)
        return CreateCollectionResponse(collection=created)

    async def GetCollection(self, request: GetCollectionRequest, context: Context) -> GetCollectionResponse:  # noqa: N802
        return GetCollectionResponse(collection=self._journal.catalog.get(request.name, field="name"))

    async def ListCollections(  # noqa: N802
        self, request: ListCollectionsRequest, context: Context
    ) -> ListCollectionsResponse:
        return ListCollectionsResponse(collections=self._journal.catalog.serving())

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
        validate.collection_name(request.name)  # all versions go, so that it is not one that is named
        collection = self._journal.catalog.get(request.name, field="name")
        await self._journal.change_catalog(self._journal.store.delete_collection, collection.uid)
        return DeleteCollectionResponse()

    async def GetCollectionStats(  # noqa: N802
        self, request: GetCollectionStatsRequest, context: Context
    ) -> GetCollectionStatsResponse:
        collection = self._journal.catalog.get(request.name, field="name")
        heads = await self._journal.read(self._journal.store.heads)
        records, seq = heads.collections.get(collection.uid, (0, 0))
        pending = await self._journal.read(self._journal.store.pending, [collection.uid])
        await self._topology.probe_all()
        replicas = self._topology.in_order()
        held = await asyncio.gather(*(ask(replica, collection.uid, PROBE_TIMEOUT) for replica in replicas))
        return GetCollectionStatsResponse(
            collection=collection,
            records=records,
            seq=seq,
            partitions=[_stats(*each, collection.uid) for each in zip(replicas, held, strict=True)],
            metrics_address=self._metrics_address,
            pending=pending[collection.uid],
        )

    async def CreateVersion(self, request: CreateVersionRequest, context: Context) -> CreateVersionResponse:  # noqa: N802
        serving = self._serving(request.name)
        collection = Collection(
            name=serving.name,
            metric=validate.metric(request.metric or serving.metric),
            train_at=validate.train_at(request.train_at or serving.train_at),
            thumbnails=serving.thumbnails,
        )
        self._complete(collection, request)
        created = await self._journal.change_catalog(self._journal.store.create_version, collection)
        return CreateVersionResponse(collection=created)

    async def ListVersions(self, request: ListVersionsRequest, context: Context) -> ListVersionsResponse:  # noqa: N802
        versions = self._journal.catalog.versions(self._serving(request.name))
        heads = await self._journal.read(self._journal.store.heads)
        pending = await self._journal.read(self._journal.store.pending, [each.uid for each in versions])
        return ListVersionsResponse(
            versions=[
                Version(collection=each, records=records, pending=pending[each.uid], seq=seq)
                for each in versions
                for records, seq in [heads.collections.get(each.uid, (0, 0))]
            ]
        )

    async def ActivateVersion(  # noqa: N802
        self, request: ActivateVersionRequest, context: Context
    ) -> ActivateVersionResponse:
        deadline = deadline_of(context, self._default_timeout)
        version = self._version(request.name, request.version)
        heads = await self._journal.read(self._journal.store.heads)
        _, seq = heads.collections.get(version.uid, (0, 0))
        # Searches go over to it at once: the shards must have it before, and be as fast in it as in the other.
        await wait_applied(self._journal, self._topology, version.uid, seq, deadline)
        await wait_settled(self._topology, version, deadline)
        store = self._journal.store
        activated = await self._journal.change_catalog(store.activate_version, request.name, request.version)
        return ActivateVersionResponse(collection=activated)

    async def DeleteVersion(self, request: DeleteVersionRequest, context: Context) -> DeleteVersionResponse:  # noqa: N802
        self._version(request.name, request.version)
        store = self._journal.store
        await self._journal.change_catalog(store.delete_version, request.name, request.version)
        return DeleteVersionResponse()

    async def PurgeCollection(  # noqa: N802
        self, request: PurgeCollectionRequest, context: Context
    ) -> PurgeCollectionResponse:
        deadline = deadline_of(context, self._default_timeout)
        if request.seq < 0:
            raise InvalidArgument("must not be negative", field="seq")
        versions = self._journal.catalog.versions(self._serving(request.name))
        return await self._purging.purge(versions, request.seq, deadline)

    def _serving(self, name: str) -> Collection:
        """The version of a name that serves; the name comes without a version."""
        validate.collection_name(name)
        return self._journal.catalog.get(name, field="name")

    def _version(self, name: str, number: int) -> Collection:
        for version in self._journal.catalog.versions(self._serving(name)):
            if version.version == number:
                return version
        raise NotFound(f"there is no version {number} of {name!r}", field="version")

    def _complete(self, collection: Collection, request: CreateCollectionRequest | CreateVersionRequest) -> None:
        """Give a new collection its space, and what depends on it."""
        if request.embedder or not request.dimension:
            self._use_embedder(collection, request)
        else:
            collection.dimension = validate.dimension(request.dimension)
        if request.HasField("index"):
            validate.index_options(request.index, collection.dimension)
            collection.index.CopyFrom(request.index)
        collection.create_time.GetCurrentTime()

    def _use_embedder(self, collection: Collection, request: CreateCollectionRequest | CreateVersionRequest) -> None:
        embedder = self._pipelines.named(request.embedder).embedder
        if request.dimension not in (0, embedder.dimension):
            raise InvalidArgument(
                f"{embedder.name!r} makes {embedder.dimension} dimensions, not {request.dimension}", field="dimension"
            )
        collection.embedder = embedder.name
        collection.space = embedder.space
        collection.dimension = embedder.dimension


def _change(request: UpdateCollectionRequest, collection: Collection) -> None:
    if request.HasField("train_at"):
        collection.train_at = request.train_at
    if request.HasField("thumbnails"):
        collection.thumbnails = request.thumbnails
    if request.HasField("keep_images"):
        collection.keep_images = request.keep_images
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
