"""Search calls as a user of the stubs makes them, and what they brought."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from vitrail.cli.bench.given import Floats
from vitrail.cli.bench.recall import NOT_ASKED
from vitrail.cli.bench.truth import Rows
from vitrail.v1.search_pb2 import (
    BatchSearchRequest,
    BatchSearchResponse,
    Query,
    SearchParameters,
    SearchRequest,
    SearchResponse,
)
from vitrail.v1.search_pb2_grpc import SearchServiceStub
from vitrail.v1.types_pb2 import Vector, VectorArray

CALL_SECONDS = 600.0


@dataclass(frozen=True)
class How:
    """The parameters of a search; the server's defaults where not given."""

    nprobe: int | None = None
    rerank_factor: float | None = None
    exact: bool = False
    target_recall: float | None = None

    def message(self) -> SearchParameters:
        return SearchParameters(
            nprobe=self.nprobe,
            rerank_factor=self.rerank_factor,
            exact=self.exact,
            target_recall=self.target_recall,
        )


@dataclass(frozen=True)
class Asked:
    """What to ask: every query of `queries` [q, d] in turn, so many a call."""

    collection: str
    queries: Floats
    k: int = 10
    batch: int = 1
    how: How = field(default_factory=How)
    filter: str = ""

    @property
    def calls(self) -> int:
        """How many calls ask every query once."""
        return -(-len(self.queries) // self.batch)


@dataclass
class Answers:
    """What came back: rows int64 [q, k] of the last answer to each query, and how they were searched."""

    rows: Rows
    queries: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    nprobe: int = 0
    rerank_factor: float = 0.0
    recall: float = 0.0
    """What the server has measured for these parameters; 0 where it does not tell."""
    matching: int = 0
    trained: bool = True
    exact: bool = True
    coverage: float = 1.0


class Calls:
    """Calls by their number, which may be beyond the last: they go round."""

    def __init__(self, channel: grpc.aio.Channel, asked: Asked) -> None:
        stub: Any = SearchServiceStub(channel)
        self._asked = asked
        self._search, self._batch_search = stub.Search, stub.BatchSearch
        self.answers = Answers(np.full((len(asked.queries), asked.k), NOT_ASKED, np.int64))

    async def __call__(self, number: int) -> bool:
        """Make one call; an error is counted. Tells whether it was answered."""
        first = number % self._asked.calls * self._asked.batch
        queries = self._asked.queries[first : first + self._asked.batch]
        try:
            if self._asked.batch == 1:
                self._take(first, await self._search(self._single(queries[0]), timeout=CALL_SECONDS))
            else:
                self._take_batch(first, await self._batch_search(self._packed(queries), timeout=CALL_SECONDS))
        except grpc.aio.AioRpcError as error:
            self.answers.errors[f"{error.code().name}: {error.details()}"] += 1
            return False
        return True

    def _single(self, query: Floats) -> SearchRequest:
        return SearchRequest(query=Query(vector=Vector(data=query.tobytes())), **self._common())

    def _packed(self, queries: Floats) -> BatchSearchRequest:
        vectors = VectorArray(data=queries.tobytes(), dimension=queries.shape[1])
        return BatchSearchRequest(vectors=vectors, **self._common())

    def _common(self) -> dict[str, Any]:
        asked = self._asked
        return {
            "collection": asked.collection,
            "top_k": asked.k,
            "parameters": asked.how.message(),
            "filter": asked.filter,
        }

    def _take_batch(self, first: int, response: BatchSearchResponse) -> None:
        for place, result in enumerate(response.results, first):
            if result.WhichOneof("outcome") == "error":
                self.answers.errors[result.error.message] += 1
            else:
                self._take(place, result.response)

    def _take(self, place: int, response: SearchResponse) -> None:
        answers = self.answers
        rows = [int(hit.id) for hit in response.hits]
        answers.rows[place] = -1
        answers.rows[place, : len(rows)] = rows
        answers.queries += 1
        index = response.index
        answers.nprobe = max(answers.nprobe, index.nprobe)
        answers.rerank_factor = max(answers.rerank_factor, index.rerank_factor)
        answers.recall = max(answers.recall, index.recall)
        answers.matching = max(answers.matching, index.matching)
        answers.trained &= index.trained
        answers.exact &= index.exact
        answers.coverage = min(answers.coverage, response.coverage.fraction)
