"""What coordinators ask of a shard: search a batch, tell your state, prove what you hold."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vitrail.rpc import tracing, vectors
from vitrail.rpc.errors import InvalidArgument, NotFound, Unavailable
from vitrail.rpc.protocol import check, this_program
from vitrail.rpc.server import Context
from vitrail.shard import metrics
from vitrail.shard.bitmap import rows_of
from vitrail.shard.config import Config
from vitrail.shard.follow import Follower
from vitrail.shard.partition import Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.view import Found, View
from vitrail.v1.collection_pb2 import IndexStats, RecallPoint
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
from vitrail.v1.shard_pb2_grpc import ShardServiceServicer

# A batch that compares at least this many vectors goes to the second gate, so that small ones never wait for it.
BULK_COMPARISONS = 2_000_000
BULK_QUERIES = 256
# Ids in one message: at most 512 bytes each.
PAGE_IDS = 4096


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
        response = await asyncio.get_running_loop().run_in_executor(gate, self._search_batch, request, arrived)
        tracing.tell(
            shard=self._config.index,
            queries=sum(len(result.counts) for result in response.results),
            search_seconds=sum(result.seconds for result in response.results),
        )
        return response

    async def MatchIds(  # noqa: N802
        self, request: MatchIdsRequest, context: Context
    ) -> AsyncIterator[MatchIdsResponse]:
        partition = self._partition(request.collection_uid)
        applied, view = partition.cursor, partition.view  # in this order: the view holds at least what is applied
        loop = asyncio.get_running_loop()
        try:
            rows = rows_of(await loop.run_in_executor(self._bulk, view.passing, request.filter))
        except ValueError as error:
            raise InvalidArgument(str(error), field="filter") from error
        for start in range(0, len(rows), PAGE_IDS) or [0]:
            ids = await loop.run_in_executor(self._bulk, view.table.documents.ids, rows[start : start + PAGE_IDS])
            yield MatchIdsResponse(ids=ids, applied=applied)

    async def GetStatus(self, request: GetStatusRequest, context: Context) -> GetStatusResponse:  # noqa: N802
        check(request.program, "the coordinator")
        return GetStatusResponse(
            shard=self._config.index,
            shards=self._config.count,
            ready=self._follower.ready.is_set(),
            catalog_seq=self._partitions.catalog_seq,
            partitions=[_status(partition) for partition in self._partitions],
            metrics_port=self._metrics_port,
            collections=self._partitions.collections(),
            has_snapshots=bool(self._config.snapshots),
            program=this_program(),
        )

    async def GetDigests(self, request: GetDigestsRequest, context: Context) -> GetDigestsResponse:  # noqa: N802
        partition = self._partition(request.collection_uid)
        held, (begin, end) = partition.held, partition.slots
        if held is None:
            raise Unavailable("the partition has not caught up since it was opened")
        sums = await asyncio.get_running_loop().run_in_executor(self._bulk, lambda: held.sums)
        return GetDigestsResponse(
            applied=held.cursor,
            slot_begin=begin,
            seqs=held.written[begin:end].astype("<i8").tobytes(),
            sums=sums[begin:end].astype("<u8").tobytes(),
            life=held.life,
        )

    async def Rebuild(self, request: RebuildRequest, context: Context) -> RebuildResponse:  # noqa: N802
        why = "it held other records than the store"
        await self._follower.rebuild(self._partition(request.collection_uid), request.life, why)
        return RebuildResponse()

    async def Compact(self, request: CompactRequest, context: Context) -> CompactResponse:  # noqa: N802
        partition = self._partition(request.collection_uid)
        partition.clean_wanted = max(partition.clean_wanted, request.seq)
        return CompactResponse()

    def _partition(self, uid: int) -> Partition:
        partition = self._partitions.get(uid)
        if partition is None:
            raise NotFound("unknown collection", field="collection_uid")
        return partition

    def _search_batch(self, request: SearchBatchRequest, arrived: float) -> SearchBatchResponse:
        return SearchBatchResponse(results=[self._search_group(group, arrived) for group in request.groups])

    def _search_group(self, group: SearchGroup, arrived: float) -> GroupResult:
        partition = self._partitions.get(group.collection_uid)
        if partition is None:
            return GroupResult(error="unknown collection")
        if self._follower.is_building(partition):  # to answer from some of the records would look like all of them
            return GroupResult(error="is being built from the log")
        start = time.monotonic()
        if start - arrived > group.timeout:
            metrics.EXPIRED.inc()
            return GroupResult(error="expired")
        metrics.SEARCH_WAIT_SECONDS.observe(start - arrived)
        queries, view = vectors.from_bytes(group.vectors, partition.dimension), partition.view
        try:
            found = partition.search(
                queries,
                group.top_k,
                nprobe=group.nprobe,
                rerank_factor=group.rerank_factor,
                target=group.target_recall,
                exact=group.exact,
                filter=group.filter if group.HasField("filter") else None,
                view=view,
            )
        except ValueError as error:  # the coordinator sends only what it has checked; it may be of another version
            return GroupResult(error=str(error))
        seconds = time.monotonic() - start
        metrics.SEARCH_SECONDS.observe(seconds)
        metrics.SEARCH_QUERIES.observe(len(queries))
        return _result(found, view, partition, seconds, with_attributes=group.attributes)

    def _is_bulk(self, request: SearchBatchRequest) -> bool:
        queries = comparisons = 0
        for group in request.groups:
            partition = self._partitions.get(group.collection_uid)
            if partition is not None:
                count = len(group.vectors) // (4 * partition.dimension)
                queries += count
                comparisons += count * (partition.view.rows if group.exact else 0)
        return queries > BULK_QUERIES or comparisons > BULK_COMPARISONS


def _result(found: Found, view: View, partition: Partition, seconds: float, *, with_attributes: bool) -> GroupResult:
    hit = found.rows >= 0
    rows = found.rows[hit]
    documents = view.table.documents
    return GroupResult(
        counts=np.count_nonzero(hit, axis=1).tolist(),
        ids=documents.ids(rows),
        scores=vectors.to_bytes(found.scores[hit]),
        attributes=documents.attributes(rows) if with_attributes else [],
        records=view.records,
        applied=partition.cursor,
        trained=view.trained is not None,
        exact=found.exact,
        nprobe=found.setting.nprobe,
        rerank_factor=found.setting.rerank_factor,
        recall=partition.expected_recall(found),
        matching=found.matching,
        version=partition.trained.version if partition.trained else "",
        seconds=seconds,
    )


def _status(partition: Partition) -> PartitionStatus:
    trained, setting = partition.trained, partition.setting()
    return PartitionStatus(
        collection_uid=partition.collection.uid,
        applied=partition.cursor,
        records=partition.view.records,
        tail=partition.tail,
        state=partition.state,
        busy=partition.trouble or partition.building,
        version=trained.version if trained else "",
        recipe=trained.recipe.factory if trained else "Flat",
        nprobe=setting.nprobe,
        index=_index_stats(partition),
        clean_seq=partition.clean_seq,
        reached=partition.reached,
    )


def _index_stats(partition: Partition) -> IndexStats:
    stats = IndexStats(
        reason=f"exact until {partition.collection.train_at:,} records",
        dead_rows=partition.dead,
        disk_bytes=partition.disk_bytes,
    )
    curve, trained = partition.curve, partition.trained
    if curve is not None and trained is not None and partition.view.trained is not None:
        setting = partition.setting()
        stats.reason = "; ".join(filter(None, [trained.recipe.reason, partition.view.trained.place]))
        stats.rerank_factor = setting.rerank_factor
        stats.recall = curve.at(setting)
        stats.samples, stats.real_samples = curve.samples, curve.real_samples
        stats.index_bytes = partition.view.trained.bytes
        stats.curve.extend(
            RecallPoint(
                nprobe=point.setting.nprobe,
                rerank_factor=point.setting.rerank_factor,
                recall=point.recall,
                seconds=point.seconds,
            )
            for point in curve.frontier()
        )
    return stats
