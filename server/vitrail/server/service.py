"""The path of a query: validate, embed, ask every shard, merge, and say what the answer covers."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vitrail.rpc import tracing, vectors
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, VitrailError
from vitrail.rpc.server import Context
from vitrail.server import metrics, validate
from vitrail.server.deadlines import deadline_of
from vitrail.server.embedding import Pipelines
from vitrail.server.fanout import Answer, Fanout, Parameters
from vitrail.server.freshness import wait_applied
from vitrail.server.journal import Journal
from vitrail.server.merge import Found
from vitrail.server.queries import Queries, Target, stored_vector
from vitrail.server.store import StoredRecord
from vitrail.server.topology import Topology
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.search_pb2 import (
    BatchSearchRequest,
    BatchSearchResponse,
    BatchSearchResult,
    EmbedRequest,
    EmbedResponse,
    Hit,
    ReturnFields,
    SearchRequest,
    SearchResponse,
    Timings,
)
from vitrail.v1.search_pb2_grpc import SearchServiceServicer
from vitrail.v1.types_pb2 import Attributes, ItemError, Metric, Vector

T = TypeVar("T")

# The steps of a search as they stand in `Timings`, each with its histogram.
STEPS = {field.name: metrics.STEP_SECONDS.labels(field.name) for field in Timings.DESCRIPTOR.fields}
# What is wrong with one item alone. Anything else (a full queue, no time left) is the whole call's.
ITEM_ERRORS = (InvalidArgument, NotFound, FailedPrecondition)


class SearchService(SearchServiceServicer):
    """Answers searches."""

    def __init__(
        self,
        journal: Journal,
        topology: Topology,
        queries: Queries,
        fanout: Fanout,
        pipelines: Pipelines,
        default_timeout: float,
    ) -> None:
        self._journal = journal
        self._topology = topology
        self._queries = queries
        self._fanout = fanout
        self._pipelines = pipelines
        self._default_timeout = default_timeout

    async def Search(self, request: SearchRequest, context: Context) -> SearchResponse:  # noqa: N802
        start = time.monotonic()
        deadline = deadline_of(context, self._default_timeout)
        collection = self._journal.catalog.get(request.collection)
        wanted = Wanted.of(request)
        parameters = validate.parameters(request, collection, wanted.top_k)
        target = await self._queries.resolve(request.query, collection, deadline, "query")
        answer = await self._ask(collection, parameters, [target], wanted, deadline)
        response = SearchResponse()
        await self._fill([response], wanted, collection, [target], answer)
        response.timings.total = time.monotonic() - start
        _observe(response)
        return response

    async def BatchSearch(self, request: BatchSearchRequest, context: Context) -> BatchSearchResponse:  # noqa: N802
        start = time.monotonic()
        deadline = deadline_of(context, self._default_timeout)
        collection = self._journal.catalog.get(request.collection)
        wanted = Wanted.of(request)
        parameters = validate.parameters(request, collection, wanted.top_k)
        outcomes = await self._targets(request, collection, wanted, deadline)
        batch = BatchSearchResponse(results=map(_result, range(len(outcomes)), outcomes))
        targets = [target for target in outcomes if isinstance(target, Target)]
        if targets:
            answer = await self._ask(collection, parameters, targets, wanted, deadline)
            responses = [result.response for result in batch.results if not result.HasField("error")]
            await self._fill(responses, wanted, collection, targets, answer)
            for response in responses:
                response.timings.total = time.monotonic() - start
            _observe(responses[0])
        return batch

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:  # noqa: N802
        deadline = deadline_of(context, self._default_timeout)
        pipeline = self._pipelines.named(request.embedder)
        validate.batch_size(len(request.inputs), 1, "inputs")
        outcomes = await asyncio.gather(*(_or_error(pipeline.embed_input(each, deadline)) for each in request.inputs))
        embedder = pipeline.embedder
        response = EmbedResponse(embedder=embedder.name, space=embedder.space)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, VitrailError):
                response.results.add(error=item_error(index, outcome))
            else:
                response.results.add(vector=Vector(data=vectors.to_bytes(outcome), space=embedder.space))
        return response

    async def _ask(
        self,
        collection: Collection,
        parameters: Parameters,
        targets: Sequence[Target],
        wanted: "Wanted",
        deadline: Deadline,
    ) -> Answer:
        """Ask the shards, for as many hits more as may be left out again; once they know what the caller does."""
        if wanted.min_seq:
            uid = collection.uid
            await wait_applied(self._journal, self._topology, uid, wanted.min_seq, deadline, wanted.min_mark)
        more = max(len(target.left_out) for target in targets)
        if more:
            parameters = parameters._replace(top_k=parameters.top_k + more)
        answer = await self._fanout.search(parameters, np.array([target.vector for target in targets]), deadline)
        tracing.tell(
            collection=collection.name,
            top_k=wanted.top_k,
            coverage=answer.coverage.fraction,
            nprobe=answer.index.nprobe,
            trained=answer.index.trained,
        )
        wanted.check_coverage(answer)
        return answer

    async def _targets(
        self, request: BatchSearchRequest, collection: Collection, wanted: "Wanted", deadline: Deadline
    ) -> list[Target | VitrailError]:
        """One vector a query, or what is wrong with it."""
        if request.HasField("vectors") == bool(request.queries):
            raise InvalidArgument("give either queries or vectors", field="queries")
        if not request.HasField("vectors"):
            validate.batch_size(len(request.queries), wanted.top_k, "queries")
            return await asyncio.gather(
                *(_or_error(self._queries.resolve(query, collection, deadline, "")) for query in request.queries)
            )
        rows = validate.vector_array(request.vectors, collection, "vectors")
        validate.batch_size(len(rows), wanted.top_k, "vectors")
        wrong = validate.unusable(rows, collection)
        usable = np.array([not text for text in wrong])
        if collection.metric == Metric.METRIC_COSINE:
            rows = rows.copy()
            rows[usable] = validate.unit(rows[usable])
        return [
            InvalidArgument(text, field="vector") if text else Target(row)
            for row, text in zip(rows, wrong, strict=True)
        ]

    async def _fill(
        self,
        responses: Sequence[SearchResponse],
        wanted: "Wanted",
        collection: Collection,
        targets: Sequence[Target],
        answer: Answer,
    ) -> None:
        """Write one answer a target where it will be sent from: to copy messages into others costs as much again."""
        kept = [wanted.keep(hits, target) for hits, target in zip(answer.hits, targets, strict=True)]
        stored: Mapping[str, StoredRecord] = {}
        if wanted.needs_store:
            ids = list({id for hits in kept for _, id, _ in hits})
            content = {"vectors": wanted.fields.vector, "thumbnails": wanted.fields.thumbnail}
            stored = await self._journal.read(self._journal.store.get, collection.uid, ids, **content)
        common = SearchResponse(coverage=answer.coverage, index=answer.index, timings=answer.timings)
        for response, hits, target in zip(responses, kept, targets, strict=True):
            response.MergeFrom(common)
            response.text_method = target.text_method
            if target.embed:
                response.timings.MergeFrom(
                    Timings(decode=target.decode, embed_wait=target.embed_wait, embed=target.embed)
                )
            for negative_score, id, attributes in hits:
                hit = response.hits.add(id=id, score=-negative_score)
                if attributes:
                    hit.attributes.MergeFrom(Attributes.FromString(attributes).fields)
                if id in stored:
                    wanted.add_stored(hit, stored[id], collection)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller wants of the hits."""

    top_k: int
    min_score: float
    min_coverage: float
    min_seq: int
    min_mark: int
    fields: ReturnFields

    @classmethod
    def of(cls, request: SearchRequest | BatchSearchRequest) -> "Wanted":
        return cls(
            validate.top_k(request),
            validate.min_score(request),
            validate.min_coverage(request),
            validate.min_seq(request),
            validate.min_mark(request),
            request.return_fields,
        )

    @property
    def needs_store(self) -> bool:
        return self.fields.vector or self.fields.thumbnail or self.fields.uri

    def check_coverage(self, answer: Answer) -> None:
        """Refuse an answer from a smaller share of the records than the caller accepts."""
        fraction = answer.coverage.fraction
        metrics.COVERAGE.observe(fraction)
        if fraction < self.min_coverage:
            raise Unavailable(
                f"{fraction:.3f} of the records could be searched, {self.min_coverage:.3f} were asked for"
            )

    def keep(self, hits: list[Found], target: Target) -> list[Found]:
        """The hits without those that were not asked for."""
        if self.min_score == -np.inf and not target.left_out:
            return hits
        return [hit for hit in hits if -hit[0] >= self.min_score and hit[1] not in target.left_out][: self.top_k]

    def add_stored(self, hit: Hit, stored: StoredRecord, collection: Collection) -> None:
        """Add what only the store knows of a hit."""
        if self.fields.vector and stored.vector:  # of what was written just now it may be pending
            row = stored_vector(stored.vector, collection.dimension)
            hit.vector.CopyFrom(Vector(data=vectors.to_bytes(row), space=collection.space))
        if self.fields.thumbnail:
            hit.thumbnail = stored.thumbnail
        if self.fields.uri:
            hit.uri = stored.uri


def _result(index: int, outcome: Target | VitrailError) -> BatchSearchResult:
    """The place of one query's answer, or what was wrong with it."""
    if isinstance(outcome, Target):
        return BatchSearchResult(response=SearchResponse())
    return BatchSearchResult(error=item_error(index, outcome))


def item_error(index: int, error: VitrailError, record_id: str = "") -> ItemError:
    """What was wrong with one item of a batch, as a message."""
    return ItemError(index=index, id=record_id, code=error.code, field=error.field, message=error.message)


async def _or_error(outcome: Awaitable[T]) -> T | VitrailError:
    try:
        return await outcome
    except ITEM_ERRORS as error:
        return error


def _observe(response: SearchResponse) -> None:
    """Count the steps that were taken: a vector is neither decoded nor embedded."""
    for step, seconds in response.timings.ListFields():
        STEPS[step.name].observe(seconds)
