"""Batching without waiting for a batch to fill.

Whoever owns a scarce thing (the device, the shards, the store's writer) takes all that waits the moment it is free.
So a lone request is a batch of one at once, and under load batches grow by themselves.

One task owns each queue, or one for each device. Callers who left, and callers whose time is over, are skipped before
any work is done for them. A full queue refuses at once, saying when to come again.

Who asks for one answer goes before who brings many: bulk work waits while anybody else does, and while somebody was
there a moment ago its batches are small, so that the next one finds the device free soon.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from vitrail.rpc import tracing
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, ResourceExhausted
from vitrail.server import metrics

T = TypeVar("T")
R = TypeVar("R")

# So long after the last interactive batch, those of bulk work stay small.
RECENT_SECONDS = 0.5
# After so many interactive batches in a row bulk work has its turn, so that it does not starve.
TURNS = 4


@dataclass(slots=True, eq=False)
class Ticket(Generic[T, R]):
    """One caller's place in a queue; `future` carries the answer back."""

    item: T
    size: int
    deadline: Deadline
    future: asyncio.Future[R]
    queued: float = field(default_factory=time.monotonic)
    trace: tracing.Trace = field(default_factory=tracing.context)
    """The span that it is a part of, if any."""
    batch_trace: tracing.Trace = None
    """The span of the batch that it went with, if any."""

    def answer(self, result: R) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


# Answers or fails every ticket of a batch.
Process: TypeAlias = Callable[[Sequence[Ticket[T, R]]], Awaitable[None]]


def take_batch(waiting: deque[Ticket[T, R]], limit: int, now: float) -> tuple[list[Ticket[T, R]], list[Ticket[T, R]]]:
    """Take from the front of `waiting` what makes one batch.

    Returns:
        The batch, of total size at most `limit` (but never empty while somebody waits: one that is larger goes
        alone), and those who were skipped because they left or their time is over.
    """
    batch: list[Ticket[T, R]] = []
    skipped: list[Ticket[T, R]] = []
    size = 0
    while waiting:
        ticket = waiting[0]
        if ticket.future.done() or ticket.deadline.at <= now:
            skipped.append(waiting.popleft())
            continue
        if batch and size + ticket.size > limit:
            break
        batch.append(waiting.popleft())
        size += ticket.size
    return batch, skipped


class Batcher(Generic[T, R]):
    """A queue, and the one task that empties it.

    Args:
        name: As it stands in metrics and errors.
        process: Answers or fails every ticket of a batch. The next batch starts when it returns.
        limit: The largest total size of a batch.
        capacity: The largest total size that may wait.
        shared_limit: The same of a batch of bulk work while others ask, too; `limit` where not given.
    """

    def __init__(
        self,
        name: str,
        process: Process[T, R],
        *,
        limit: int,
        capacity: int,
        shared_limit: int | None = None,
    ) -> None:
        self._name = name
        self._process = process
        self._limit = limit
        self._shared_limit = shared_limit or limit
        self._capacity = capacity
        self._interactive: deque[Ticket[T, R]] = deque()
        self._bulk: deque[Ticket[T, R]] = deque()
        self._turns = 0
        self._last_interactive = float("-inf")
        self._size = 0
        self._arrived = asyncio.Event()
        self._batch_seconds = 0.05
        self._depth = metrics.QUEUE_DEPTH.labels(name)
        self._sizes = metrics.BATCH_SIZE.labels(name)
        self._waits = metrics.QUEUE_SECONDS.labels(name)
        self._refused = metrics.REFUSED.labels(name)
        metrics.QUEUE_CAPACITY.labels(name).inc(capacity)  # embedders have a queue of this name each

    async def submit(self, item: T, deadline: Deadline, size: int = 1, *, bulk: bool = False) -> R:
        """Wait for the answer to one item; `bulk` work goes behind everything else.

        Raises:
            ResourceExhausted: Too much waits already.
            DeadlineExceeded: The time is over; whatever was not begun by then never will be.
        """
        if (self._interactive or self._bulk) and self._size + size > self._capacity:
            self._refused.inc()
            batches = 1 + self._size / self._limit
            raise ResourceExhausted(f"the {self._name} queue is full", retry_after=batches * self._batch_seconds)
        with tracing.span(self._name, items=size):
            return await self._wait(item, deadline, size, bulk)

    async def _wait(self, item: T, deadline: Deadline, size: int, bulk: bool) -> R:
        loop = asyncio.get_running_loop()
        ticket: Ticket[T, R] = Ticket(item, size, deadline, loop.create_future())
        (self._bulk if bulk else self._interactive).append(ticket)
        self._size += size
        self._depth.inc(size)
        self._arrived.set()
        overdue = DeadlineExceeded(f"no time left in the {self._name} queue")
        timer = loop.call_later(deadline.remaining, ticket.fail, overdue)
        try:
            return await ticket.future
        finally:
            timer.cancel()
            tracing.link(ticket.batch_trace)

    @property
    def is_busy(self) -> bool:
        """Whether somebody asked a moment ago."""
        return time.monotonic() - self._last_interactive < RECENT_SECONDS

    async def run(self, process: Process[T, R] | None = None, free: asyncio.Lock | None = None) -> None:
        """Own the queue until cancelled; several at a time share it, each with a batch of its own.

        Args:
            process: What answers these batches, where it is not what answers all others.
            free: Held during a batch, and from before it is taken: what it is for is shared with other queues.
        """
        while True:
            await self._arrived.wait()
            async with free or contextlib.nullcontext():
                batch = self._take()
                if batch:
                    await self._run_batch(batch, process or self._process)

    def _take(self) -> Sequence[Ticket[T, R]]:
        now = time.monotonic()
        waiting, limit = self._turn(now)
        batch, skipped = take_batch(waiting, limit, now)
        left = sum(ticket.size for ticket in (*batch, *skipped))
        self._size -= left
        self._depth.dec(left)
        if batch:
            self._waits.observe(now - batch[0].queued)
        if not self._interactive and not self._bulk:
            self._arrived.clear()
        return batch

    def _turn(self, now: float) -> tuple[deque[Ticket[T, R]], int]:
        """Whose turn it is, and how large the batch may be."""
        if self._interactive and (not self._bulk or self._turns < TURNS):
            self._turns += 1
            self._last_interactive = now
            return self._interactive, self._limit
        self._turns = 0
        return self._bulk, self._shared_limit if self._interactive or self.is_busy else self._limit

    async def _run_batch(self, batch: Sequence[Ticket[T, R]], process: Process[T, R]) -> None:
        start = time.monotonic()
        size = sum(ticket.size for ticket in batch)
        self._sizes.observe(size)
        try:
            traced = [(ticket, ticket.trace) for ticket in batch if ticket.trace is not None]
            with tracing.batch(f"{self._name} batch", [trace for _, trace in traced], items=size):
                for ticket, _ in traced[1:]:
                    ticket.batch_trace = tracing.context()
                await process(batch)
        except Exception as error:  # each caller gets it, and the queue goes on
            for ticket in batch:
                ticket.fail(error)
        self._batch_seconds += 0.2 * (time.monotonic() - start - self._batch_seconds)
