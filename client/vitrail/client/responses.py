"""From the messages that arrive to the SDK's values."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vitrail.client.models import (
    AttributeType,
    Collection,
    CollectionStats,
    Coverage,
    Embeddings,
    Hit,
    IndexInfo,
    IndexOptions,
    IndexStats,
    ItemError,
    PartitionStats,
    PurgeRemains,
    PurgeReport,
    RecallPoint,
    SearchResult,
    ShardProcess,
    Shards,
    StoredRecord,
    TextMethod,
    Timings,
    Version,
)
from vitrail.client.requests import METRICS
from vitrail.rpc.attributes import NAMES_OF_TYPES, from_values
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1 import cluster_pb2, collection_pb2, record_pb2, search_pb2, types_pb2

TEXT_METHODS: dict[int, TextMethod] = {
    search_pb2.TextMethod.TEXT_METHOD_SHARED_SPACE: "shared_space",
    search_pb2.TextMethod.TEXT_METHOD_CLASS_NAMES: "class_names",
}
NAMES_OF_METRICS = {number: name for name, number in METRICS.items()}


def collection(message: collection_pb2.Collection) -> Collection:
    return Collection(
        name=message.name,
        uid=message.uid,
        dimension=message.dimension,
        metric=NAMES_OF_METRICS.get(message.metric, "cosine"),
        embedder=message.embedder,
        space=message.space,
        attributes={
            name: cast("AttributeType", NAMES_OF_TYPES.get(kind, "string"))
            for name, kind in sorted(message.attributes.items())
        },
        train_at=message.train_at,
        thumbnails=message.thumbnails,
        created=message.create_time.ToDatetime(tzinfo=UTC),
        index=index_options(message.index),
        version=message.version,
        serves=message.serves,
        keep_images=message.keep_images,
    )


def version(message: collection_pb2.Version) -> Version:
    return Version(collection(message.collection), message.records, message.pending, message.seq)


def index_options(message: collection_pb2.IndexOptions) -> IndexOptions:
    return IndexOptions(**{descriptor.name: value for descriptor, value in message.ListFields()})


def stored_record(message: record_pb2.Record) -> StoredRecord:
    return StoredRecord(
        id=message.id,
        vector=vector(message.vector),
        attributes=from_values(message.attributes),
        uri=message.uri or None,
        seq=message.seq,
        content_hash=message.content_hash,
        thumbnail=message.thumbnail or None,
        updated=message.update_time.ToDatetime(tzinfo=UTC),
        pending=message.pending,
        image=message.image or None,
    )


def search_result(message: search_pb2.SearchResponse) -> SearchResult:
    return SearchResult(
        hits=tuple(map(hit, message.hits)),
        coverage=coverage(message.coverage),
        index=index_info(message.index),
        timings=timings(message.timings),
        text_method=TEXT_METHODS.get(message.text_method),
    )


def embeddings(
    found: Mapping[int, NDArray[np.float32]], errors: Sequence[ItemError], message: search_pb2.EmbedResponse
) -> Embeddings:
    """What several calls found, as one array; the last answer tells whose it is."""
    dimension = len(next(iter(found.values()), ()))
    vectors = np.full((len(found) + len(errors), dimension), np.nan, np.float32)
    for place, row in found.items():
        vectors[place] = row
    in_order = tuple(sorted(errors, key=lambda error: error.index))
    return Embeddings(vectors, message.embedder, message.space, in_order)


def batch_result(message: search_pb2.BatchSearchResult, index: int) -> SearchResult | ItemError:
    """Read the outcome of the query that stands at `index` in what the caller gave."""
    if message.WhichOneof("outcome") == "error":
        return item_error(message.error, index)
    return search_result(message.response)


def hit(message: search_pb2.Hit) -> Hit:
    return Hit(
        id=message.id,
        score=message.score,
        attributes=from_values(message.attributes),
        uri=message.uri or None,
        vector=vector(message.vector) if message.HasField("vector") else None,
        thumbnail=message.thumbnail or None,
    )


def coverage(message: search_pb2.Coverage) -> Coverage:
    return Coverage(
        shards_searched=message.shards_searched,
        shards_total=message.shards_total,
        records_searched=message.records_searched,
        records_total=message.records_total,
        fraction=message.fraction,
        unreachable={shard.shard: shard.reason for shard in message.unreachable},
    )


def index_info(message: search_pb2.IndexInfo) -> IndexInfo:
    return IndexInfo(
        trained=message.trained,
        exact=message.exact,
        nprobe=message.nprobe,
        version=message.version,
        space=message.space,
        seq=message.seq,
        rerank_factor=message.rerank_factor,
        recall=message.recall,
        matching=message.matching,
    )


def timings(message: search_pb2.Timings) -> Timings:
    return Timings(
        decode=message.decode,
        embed_wait=message.embed_wait,
        embed=message.embed,
        search_wait=message.search_wait,
        fanout=message.fanout,
        shard=message.shard,
        merge=message.merge,
        total=message.total,
    )


def collection_stats(message: collection_pb2.GetCollectionStatsResponse) -> CollectionStats:
    return CollectionStats(
        collection=collection(message.collection),
        records=message.records,
        seq=message.seq,
        partitions=tuple(map(partition_stats, message.partitions)),
        metrics_address=message.metrics_address,
        pending=message.pending,
    )


def partition_stats(message: collection_pb2.PartitionStats) -> PartitionStats:
    return PartitionStats(
        shard=message.shard,
        address=message.address,
        metrics_address=message.metrics_address,
        reachable=message.reachable,
        state=message.state,
        records=message.records,
        tail=message.tail,
        seq=message.seq,
        busy=message.busy,
        version=message.version,
        recipe=message.recipe,
        nprobe=message.nprobe,
        index=index_stats(message.index),
        shards=message.shards,
        digest=message.digest,
        quarantined=message.quarantined,
    )


def purge_report(message: collection_pb2.PurgeCollectionResponse) -> PurgeReport:
    return PurgeReport(
        seq=message.seq,
        done=message.done,
        remains=tuple(PurgeRemains(each.where, each.why) for each in message.remains),
        notes=tuple(message.notes),
    )


def shards(message: cluster_pb2.GetShardsResponse) -> Shards:
    return Shards(message.serving, message.wanted, tuple(map(shard_process, message.processes)))


def shard_process(message: cluster_pb2.ShardProcess) -> ShardProcess:
    return ShardProcess(
        address=message.address,
        shard=message.shard,
        shards=message.shards,
        failure=message.failure,
        behind=message.behind,
        records=message.records,
        metrics_address=message.metrics_address,
        head=message.head,
        version=message.program.version,
        protocol=message.program.protocol,
    )


def index_stats(message: collection_pb2.IndexStats) -> IndexStats:
    return IndexStats(
        reason=message.reason,
        rerank_factor=message.rerank_factor,
        recall=message.recall,
        samples=message.samples,
        real_samples=message.real_samples,
        curve=tuple(
            RecallPoint(point.nprobe, point.rerank_factor, point.recall, point.seconds) for point in message.curve
        ),
        dead_rows=message.dead_rows,
        index_bytes=message.index_bytes,
        disk_bytes=message.disk_bytes,
    )


def item_error(message: types_pb2.ItemError, index: int) -> ItemError:
    """Read what was wrong with the item that stands at `index` in what the caller gave."""
    return ItemError(index, message.id, message.code, message.field, message.message)


def vector(message: types_pb2.Vector) -> NDArray[np.float32] | None:
    """Read a vector in either of its two forms; None where there is none."""
    if message.data:
        return np.frombuffer(message.data, FLOAT32)
    return np.array(message.values, FLOAT32) if message.values else None
