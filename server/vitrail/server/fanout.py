"""The fan-out: a batch of queries goes to every shard at once, one question a shard, and comes back as merged answers.

One batch is in flight at a time, so what arrives meanwhile is the next batch. The gate opens when the batch is
answered, or when it is overdue: one stopped shard never stops everyone. After that the batch lives on beside the
next one, and each caller is answered by its own deadline with the shards that did answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from vitrail.rpc import tracing, vectors
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, Unavailable, VitrailError
from vitrail.server import metrics
from vitrail.server.batching import Batcher, Ticket
from vitrail.server.hedging import Budget, Question
from vitrail.server.merge import Found, Known, coverage, fits, index_info, merge
from vitrail.server.topology import PROBE_SECONDS, Shard, Topology, reason
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.search_pb2 import Coverage, IndexInfo, Timings
from vitrail.v1.shard_pb2 import GroupResult, SearchBatchRequest, SearchBatchResponse, SearchGroup

# A batch is overdue after this many times the recent 95th percentile, within these bounds.
OVERDUE_FACTOR = 2.0
SHORTEST_OVERDUE = 0.05
LONGEST_OVERDUE = 2.0
RECENT = 200
FIRST_GUESS = 0.1
"""Seconds of a batch, before there has been one."""
# Of the time that a caller has left when it joins the queue; the rest is for merging.
SHARE = 0.95


class Parameters(NamedTuple):
    """What queries must have in common to be searched as one group."""

    collection_uid: int
    space: str
    top_k: int
    nprobe: int
    rerank_factor: float
    exact: bool
    attributes: bool
    target_recall: float = 0.0
    filter: bytes = b""
    """A serialized Filter; empty where every record passes."""


@dataclass(frozen=True, slots=True)
class Search:
    """The queries of one caller: float32 [n, d], of length 1 for cosine."""

    parameters: Parameters
    queries: NDArray[np.float32]
    answer_by: Deadline
    """When to answer with what there is; before the caller's own deadline, at which it leaves."""


@dataclass(slots=True)
class Answer:
    """Hits of each query, best first, and how they were found."""

    hits: list[list[Found]]
    coverage: Coverage
    index: IndexInfo
    timings: Timings


SearchTicket = Ticket[Search, Answer]


class Fanout:
    """Answers searches from the shards of a topology."""

    def __init__(self, topology: Topology, *, batch: int, capacity: int) -> None:
        self._topology = topology
        self._budget = Budget()
        self._recent: deque[float] = deque([FIRST_GUESS], RECENT)
        self._batches: set[asyncio.Task[None]] = set()
        self.batcher: Batcher[Search, Answer] = Batcher("search", self._process, limit=batch, capacity=capacity)

    async def search(self, parameters: Parameters, queries: NDArray[np.float32], deadline: Deadline) -> Answer:
        """Search all shards for float32 [n, d], of length 1 for cosine.

        Raises:
            Unavailable: No shard can be reached.
            DeadlineExceeded: No shard answered in time.
            ResourceExhausted: The queue is full.
        """
        if not self._topology.shards:
            await self._topology.probe_all()
        if not self._topology.shards:
            raise Unavailable("no shard was heard of yet", retry_after=PROBE_SECONDS)
        search = Search(parameters, queries, Deadline.after(SHARE * deadline.remaining))
        return await self.batcher.submit(search, deadline, len(queries))

    async def _process(self, tickets: Sequence[SearchTicket]) -> None:
        batch = Batch(tickets, self._topology.shards, self._budget)
        task = asyncio.create_task(batch.run())
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)
        done, _ = await asyncio.wait([task], timeout=self._overdue_after())
        if done:
            task.result()
            if not batch.was_cut_off:  # its callers' deadlines say nothing of how long shards take
                self._recent.append(time.monotonic() - batch.start)
        else:
            batch.leave_behind()

    def _overdue_after(self) -> float:
        p95 = sorted(self._recent)[int(0.95 * (len(self._recent) - 1))]
        return min(max(OVERDUE_FACTOR * p95, SHORTEST_OVERDUE), LONGEST_OVERDUE)


@dataclass(slots=True)
class Group:
    """Tickets that are searched together: those with the same parameters."""

    parameters: Parameters
    tickets: list[SearchTicket] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, ticket: SearchTicket) -> None:
        self.tickets.append(ticket)
        self.starts.append(self.size)
        self.size += ticket.size

    def message(self) -> SearchGroup:
        uid, _, top_k, nprobe, rerank_factor, exact, attributes, target_recall, condition = self.parameters
        return SearchGroup(
            collection_uid=uid,
            vectors=b"".join(vectors.to_bytes(ticket.item.queries) for ticket in self.tickets),
            top_k=top_k,
            nprobe=nprobe,
            rerank_factor=rerank_factor,
            exact=exact,
            attributes=attributes,
            target_recall=target_recall,
            filter=Filter.FromString(condition) if condition else None,
            timeout=max(ticket.item.answer_by.remaining for ticket in self.tickets),
        )


class Batch:
    """One batch on its way: asks every shard, and answers each ticket once."""

    def __init__(self, tickets: Sequence[SearchTicket], shards: Sequence[Shard], budget: Budget) -> None:
        self.start = time.monotonic()
        self.was_cut_off = False
        """Whether all callers had to be answered before every shard had."""
        self._shards = shards
        self._budget = budget
        self._groups = _grouped(tickets)
        self._responses: dict[int, SearchBatchResponse] = {}
        # Where every shard is overdue, it is the machine that stood still: leaving all of them out helps nobody.
        self._asked = [shard for shard in shards if shard.can_be_asked] or [
            shard for shard in shards if shard.pick(silent=True)
        ]
        self._failures = {shard.index: shard.failure or "overdue" for shard in shards if shard not in self._asked}
        self._calls: dict[asyncio.Task[SearchBatchResponse], Question] = {}

    async def run(self) -> None:
        """Ask, and answer every ticket by its own deadline."""
        request = SearchBatchRequest(groups=[group.message() for group in self._groups])
        timeout = max(group.timeout for group in request.groups)
        for shard in self._asked:
            first = shard.pick() or shard.pick(silent=True)
            if first is None:  # quarantined just now
                self._fail(shard, shard.failure)
                continue
            question = Question(shard, first, request, timeout, self._budget)
            self._calls[asyncio.ensure_future(question.answer())] = question
        pending = set(self._calls)
        while pending and (waiting := self._unanswered()):
            until = min(ticket.item.answer_by.at for ticket in waiting)
            done, pending = await asyncio.wait(pending, timeout=max(0.0, until - time.monotonic()))
            for call in done:
                self._take(call)
            if pending:
                self._answer(time.monotonic())
        self.was_cut_off = bool(pending)
        for call in pending:
            call.cancel()
            self._fail(self._calls[call].shard, "no answer in time")
        self._answer(float("inf"))

    def leave_behind(self) -> None:
        """The next batch goes on without the shards that have not answered this one."""
        for call, question in self._calls.items():
            if not call.done():
                question.leave_behind()

    def _unanswered(self) -> list[SearchTicket]:
        return [ticket for group in self._groups for ticket in group.tickets if not ticket.future.done()]

    def _take(self, call: asyncio.Task[SearchBatchResponse]) -> None:
        question = self._calls[call]
        shard, replica = question.shard, question.replica
        try:
            response = call.result()
        except grpc.aio.AioRpcError as error:
            self._fail(shard, reason(error))
            return
        if replica is None or not self._fits(response):
            self._fail(shard, "malformed answer")
            return
        self._responses[shard.index] = response
        for group, result in zip(self._groups, response.results, strict=True):
            if not result.error:
                replica.records[group.parameters.collection_uid] = result.records
                replica.applied[group.parameters.collection_uid] = result.applied

    def _fits(self, response: SearchBatchResponse) -> bool:
        """Whether the answer has the shape of the question: one result a group, one count a query."""
        return len(response.results) == len(self._groups) and all(
            result.error or fits(result, group.size)
            for group, result in zip(self._groups, response.results, strict=True)
        )

    def _fail(self, shard: Shard, why: str) -> None:
        self._failures[shard.index] = why
        metrics.FANOUT_FAILURES.labels(shard.index, why).inc()

    def _answer(self, now: float) -> None:
        """Answer the tickets whose time has come."""
        for position, group in enumerate(self._groups):
            due = [index for index, ticket in enumerate(group.tickets) if _is_due(ticket, now)]
            if due:
                results = {shard: response.results[position] for shard, response in self._responses.items()}
                self._answer_group(group, due, results)

    def _answer_group(self, group: Group, due: Sequence[int], results: Mapping[int, GroupResult]) -> None:
        if not results:
            error = self._no_answer()
            for index in due:
                group.tickets[index].fail(error)
            return
        answered = time.monotonic()
        searched = [result for result in results.values() if not result.error]
        with tracing.span("merge", shards=len(searched), queries=group.size):
            hits = merge(searched, group.parameters.top_k) if searched else [[] for _ in range(group.size)]
        covered = coverage([self._known(shard, group, results) for shard in self._shards])
        info = index_info(results, group.parameters.space)
        seconds = max(result.seconds for result in results.values())
        merged = time.monotonic() - answered
        for index in due:
            ticket, start = group.tickets[index], group.starts[index]
            ticket.answer(
                Answer(
                    hits=hits[start : start + ticket.size],
                    coverage=covered,
                    index=info,
                    timings=Timings(
                        search_wait=self.start - ticket.queued,
                        fanout=answered - self.start,
                        shard=seconds,
                        merge=merged,
                    ),
                )
            )

    def _known(self, shard: Shard, group: Group, results: Mapping[int, GroupResult]) -> Known:
        result = results.get(shard.index)
        if result is not None and not result.error:
            return Known(shard.index, result.records)
        failure = result.error if result is not None else self._failures.get(shard.index, "no answer in time")
        return Known(shard.index, shard.records(group.parameters.collection_uid), failure)

    def _no_answer(self) -> VitrailError:
        reasons = {self._failures.get(shard.index, "no answer in time") for shard in self._shards}
        if reasons == {"no answer in time"}:
            return DeadlineExceeded("no shard answered in time")
        return Unavailable(f"no shard answered: {', '.join(sorted(reasons))}", retry_after=0.5)


def _grouped(tickets: Sequence[SearchTicket]) -> list[Group]:
    groups: dict[Parameters, Group] = {}
    for ticket in tickets:
        parameters = ticket.item.parameters
        groups.setdefault(parameters, Group(parameters)).add(ticket)
    return list(groups.values())


def _is_due(ticket: SearchTicket, now: float) -> bool:
    return not ticket.future.done() and ticket.item.answer_by.at <= now
