"""What coordinators ask of a shard: search a batch, tell your state."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vitrail.rpc import vectors
from vitrail.rpc.server import Context
from vitrail.shard import metrics
from vitrail.shard.config import Config
from vitrail.shard.follow import Follower
from vitrail.shard.partition import Found, Partition
from vitrail.shard.partitions import Partitions
from vitrail.v1.shard_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    GroupResult,
    PartitionStatus,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchGroup,
)
from vitrail.v1.shard_pb2_grpc import ShardServiceServicer

# A batch that compares at least this many vectors goes to the second gate, so that small ones never wait for it.
BULK_COMPARISONS = 2_000_000
BULK_QUERIES = 256


class ShardService(ShardServiceServicer):
    """Answers from the partitions. Two gates, each one thread: one for small batches, one for bulk."""

    def __init__(self, config: Config, partitions: Partitions, follower: Follower, metrics_port: int) -> None:
        self._config = config
        self._partitions = partitions
        self._follower = follower
        self._metrics_port = metrics_port
        self._interactive = ThreadPoolExecutor(1, "search")
        self._bulk = ThreadPoolExecutor(1, "bulk")

    async def SearchBatch(self, request: SearchBatchRequest, context: Context) -> SearchBatchResponse:  # noqa: N802
        arrived = time.monotonic()
        gate = self._bulk if self._is_bulk(request) else self._interactive
        return await asyncio.get_running_loop().run_in_executor(gate, self._search_batch, request, arrived)

    async def GetStatus(self, request: GetStatusRequest, context: Context) -> GetStatusResponse:  # noqa: N802
        return GetStatusResponse(
            shard=self._config.index,
            shards=self._config.count,
            ready=self._follower.ready.is_set(),
            catalog_seq=self._partitions.catalog_seq,
            partitions=[_status(partition) for partition in self._partitions],
            metrics_port=self._metrics_port,
            collections=self._partitions.collections(),
        )

    def _search_batch(self, request: SearchBatchRequest, arrived: float) -> SearchBatchResponse:
        return SearchBatchResponse(results=[self._search_group(group, arrived) for group in request.groups])

    def _search_group(self, group: SearchGroup, arrived: float) -> GroupResult:
        partition = self._partitions.get(group.collection_uid)
        if partition is None:
            return GroupResult(error="unknown collection")
        start = time.monotonic()
        if start - arrived > group.timeout:
            metrics.EXPIRED.inc()
            return GroupResult(error="expired")
        queries = vectors.from_bytes(group.vectors, partition.dimension)
        found = partition.search(
            queries, group.top_k, nprobe=group.nprobe, rerank_factor=group.rerank_factor, exact=group.exact
        )
        seconds = time.monotonic() - start
        metrics.SEARCH_SECONDS.observe(seconds)
        metrics.SEARCH_QUERIES.observe(len(queries))
        return _result(found, partition, seconds, with_attributes=group.attributes)

    def _is_bulk(self, request: SearchBatchRequest) -> bool:
        queries = comparisons = 0
        for group in request.groups:
            partition = self._partitions.get(group.collection_uid)
            if partition is not None:
                count = len(group.vectors) // (4 * partition.dimension)
                queries += count
                comparisons += count * (partition.view.rows if group.exact else 0)
        return queries > BULK_QUERIES or comparisons > BULK_COMPARISONS


def _result(found: Found, partition: Partition, seconds: float, *, with_attributes: bool) -> GroupResult:
    hit = found.rows >= 0
    rows = found.rows[hit]
    documents = found.view.documents
    return GroupResult(
        counts=np.count_nonzero(hit, axis=1).tolist(),
        ids=documents.ids(rows),
        scores=vectors.to_bytes(found.scores[hit]),
        attributes=documents.attributes(rows) if with_attributes else [],
        records=found.view.records,
        applied=partition.cursor,
        trained=found.view.trained is not None,
        exact=found.exact,
        nprobe=found.nprobe,
        version=partition.version,
        seconds=seconds,
    )


def _status(partition: Partition) -> PartitionStatus:
    recipe = partition.recipe
    return PartitionStatus(
        collection_uid=partition.collection.uid,
        applied=partition.cursor,
        records=partition.view.records,
        tail=partition.tail,
        state=partition.state,
        busy="training" if partition.training else "",
        version=partition.version,
        recipe=recipe.factory if recipe else "Flat",
        nprobe=recipe.nprobe if recipe else 0,
    )
