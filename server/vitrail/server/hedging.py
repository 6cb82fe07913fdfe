"""Asking one shard: one of its replicas, and a second one where the first fails or is slow.

A second question after the 95th percentile costs a few extra ones and cuts the tail off (Dean and Barroso, The Tail at
Scale, CACM 56(2), 2013, "hedged requests"). A token bucket bounds them, so that a slow day is not made slower.
"""

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

import grpc

from vitrail.rpc import tracing
from vitrail.rpc.deadline import Deadline
from vitrail.server import metrics
from vitrail.server.topology import Replica, Shard
from vitrail.v1.shard_pb2 import SearchBatchRequest, SearchBatchResponse

# Extra questions are at most this share of all, and at most so many at once after a quiet time.
SHARE, BURST = 0.04, 10.0
RECENT = 200
# Before there were answers to tell from, and never sooner than this.
FIRST_GUESS, SHORTEST = 0.1, 0.002


class Budget:
    """When to ask a second replica, and whether there is a question to spare."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque([FIRST_GUESS], RECENT)
        self._tokens = BURST

    @property
    def after(self) -> float:
        """Seconds after which an answer is late: about the 95th percentile."""
        return max(SHORTEST, sorted(self._recent)[int(0.95 * (len(self._recent) - 1))])

    def asked(self) -> None:
        self._tokens = min(BURST, self._tokens + SHARE)

    def answered(self, seconds: float) -> None:
        self._recent.append(seconds)

    def take(self) -> bool:
        """Whether one more may be asked."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Question:
    """One batch, asked of one shard. `answer` comes from the replica that is first."""

    def __init__(
        self, shard: Shard, first: Replica, request: SearchBatchRequest, timeout: float, budget: Budget
    ) -> None:
        self.shard = shard
        self._first = first
        self.replica: Replica | None = None
        """Whose answer it was."""
        self._request = request
        self._deadline = Deadline.after(timeout)
        self._budget = budget
        self._asked: list[Replica] = []
        self._calls: dict[asyncio.Task[SearchBatchResponse], Replica] = {}
        self._left_behind: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(self) -> SearchBatchResponse:
        """Ask until a replica answers.

        Raises:
            AioRpcError: None did; what the last one said.
        """
        start = time.monotonic()
        self._budget.asked()
        self._ask(self._first)
        may_hedge, is_overdue = True, False
        try:
            while True:
                spare = self.shard.pick(but=self._asked) if len(self.shard.replicas) > 1 else None
                late = start + self._budget.after - time.monotonic() if spare and may_hedge else None
                news: list[asyncio.Future[Any]] = [*self._calls]
                if not is_overdue:
                    news.append(self._left_behind)
                done, _ = await asyncio.wait(
                    news, timeout=None if late is None else max(0.0, late), return_when=asyncio.FIRST_COMPLETED
                )
                if not done or self._left_behind in done:
                    may_hedge, is_overdue = False, bool(done)  # a third replica would be as late
                    # Overdue, whatever the budget: callers would wait until their deadlines for one that stands still.
                    if spare and (is_overdue or self._budget.take()):
                        metrics.HEDGES.inc()
                        self._ask(spare)
                    continue
                call = next(call for call in self._calls if call in done)
                replica = self._calls.pop(call)
                error = call.exception()
                if error is None:
                    self._won(replica, time.monotonic() - start)
                    return call.result()
                if not isinstance(error, grpc.aio.AioRpcError):
                    raise error
                another = spare or self.shard.pick(but=self._asked, silent=True)
                if another is not None:
                    metrics.FAILOVERS.inc()
                    self._ask(another)
                elif not self._calls:
                    raise error
        finally:
            for call in self._calls:
                call.cancel()

    def leave_behind(self) -> None:
        """Whoever has not answered yet is overdue."""
        self._left_behind.set_result(None)
        for replica in self._calls.values():
            replica.overdue += 1

    def _ask(self, replica: Replica) -> None:
        self._asked.append(replica)
        replica.outstanding += 1
        call = asyncio.ensure_future(_call(self.shard.index, replica, self._request, self._deadline.remaining))
        call.add_done_callback(partial(self._ended, replica, time.monotonic()))
        self._calls[call] = replica

    def _ended(self, replica: Replica, start: float, call: asyncio.Task[SearchBatchResponse]) -> None:
        replica.outstanding -= 1
        answered = not call.cancelled() and call.exception() is None
        # The first that was left would have taken longer; how long a failure took, or a second that was, says nothing.
        if answered or (call.cancelled() and replica is self._first):
            replica.took(time.monotonic() - start)
        if answered:
            replica.heard_at = time.monotonic()
            if self._left_behind.done():  # late, but it did answer
                replica.overdue = max(0, replica.overdue - 1)

    def _won(self, winner: Replica, seconds: float) -> None:
        self.replica = winner
        self._budget.answered(seconds)
        winner.overdue = 0
        if winner is not self._asked[0]:
            for loser in self._calls.values():  # slower than another one that was asked later
                loser.overdue += 1


async def _call(shard: int, replica: Replica, request: SearchBatchRequest, timeout: float) -> SearchBatchResponse:
    try:
        with tracing.span("shard", shard=shard, address=replica.address):
            return await replica.stub.SearchBatch(request, timeout=timeout, metadata=tracing.metadata())
    except grpc.aio.UsageError as error:  # it was forgotten meanwhile, and its channel closed
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, str(error)) from error
