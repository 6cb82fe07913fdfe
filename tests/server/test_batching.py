import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, ResourceExhausted
from vitrail.server.batching import Batcher, Ticket, take_batch

Tickets = Sequence[Ticket[str, str]]

# Waiting (name and size; "!" left, "?" expired), limit → batch, skipped, still waiting.
TABLE = [
    ("", 4, "", "", ""),
    ("a1", 4, "a", "", ""),
    ("a1 b1 c1", 2, "ab", "", "c"),
    ("a2 b2 c1", 4, "ab", "", "c"),
    ("a9 b1", 4, "a", "", "b"),
    ("b1 a9", 4, "b", "", "a"),
    ("a1! b1 c1? d1", 4, "bd", "ac", ""),
    ("a1! b1?", 4, "", "ab", ""),
    ("a1 b1! c1", 1, "a", "b", "c"),
]


@pytest.mark.parametrize(("waiting", "limit", "batch", "skipped", "left"), TABLE)
async def test_take_batch(waiting: str, limit: int, batch: str, skipped: str, left: str) -> None:
    """A batch is taken from the front up to the limit, without those who left or whose time is over."""
    loop = asyncio.get_running_loop()
    tickets: deque[Ticket[str, str]] = deque()
    for word in waiting.split():
        ticket = Ticket[str, str](word[0], int(word[1]), Deadline(5.0 if "?" in word else 100.0), loop.create_future())
        if "!" in word:
            ticket.future.cancel()
        tickets.append(ticket)
    taken, dropped = take_batch(tickets, limit, now=10.0)
    assert ["".join(ticket.item for ticket in group) for group in (taken, dropped, tickets)] == [batch, skipped, left]


@asynccontextmanager
async def running(
    process: Callable[[Tickets], object], *, limit: int = 8, capacity: int = 16
) -> AsyncIterator[Batcher[str, str]]:
    async def run(tickets: Tickets) -> None:
        result = process(tickets)
        if asyncio.iscoroutine(result):
            await result

    batcher: Batcher[str, str] = Batcher("test", run, limit=limit, capacity=capacity)
    task = asyncio.create_task(batcher.run())
    yield batcher
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Gate:
    """Answers each batch with its own items once it is opened, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.open = asyncio.Event()
        self.entered = asyncio.Event()

    async def __call__(self, tickets: Tickets) -> None:
        self.batches.append("".join(ticket.item for ticket in tickets))
        self.entered.set()
        await self.open.wait()
        for ticket in tickets:
            ticket.answer(ticket.item.upper())


LATER = Deadline.after(3600)


async def test_a_lone_item_goes_at_once_and_the_rest_is_the_next_batch() -> None:
    """Nothing waits for a batch to fill; what arrives while one is under way goes together."""
    gate = Gate()
    async with running(gate) as batcher:
        first = asyncio.create_task(batcher.submit("a", LATER))
        await gate.entered.wait()
        others = [asyncio.create_task(batcher.submit(name, LATER)) for name in "bcd"]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert gate.batches == ["a", "bcd"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    """Beyond its capacity nothing is queued, and the error carries a delay."""
    gate = Gate()
    async with running(gate, capacity=2) as batcher:
        busy = asyncio.create_task(batcher.submit("a", LATER))
        await gate.entered.wait()
        waiting = [asyncio.create_task(batcher.submit(name, LATER)) for name in "bc"]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as caught:
            await batcher.submit("d", LATER)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 0
        gate.open.set()
        assert await asyncio.gather(busy, *waiting) == ["A", "B", "C"]


async def test_expired_work_is_never_done() -> None:
    """Who runs out of time in the queue is told so, and what it asked for never reaches the device."""
    gate = Gate()
    async with running(gate) as batcher:
        busy = asyncio.create_task(batcher.submit("a", LATER))
        await gate.entered.wait()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit("b", Deadline.after(0.01))
        gate.open.set()
        await busy
        assert await batcher.submit("c", LATER) == "C"
    assert gate.batches == ["a", "c"]


async def test_a_failed_batch_fails_its_callers_alone() -> None:
    """Each caller of the batch gets the error, and the next batch is processed."""

    def process(tickets: Tickets) -> None:
        for ticket in tickets:
            if ticket.item == "bad":
                raise ZeroDivisionError
            ticket.answer("fine")

    async with running(process) as batcher:
        with pytest.raises(ZeroDivisionError):
            await batcher.submit("bad", LATER)
        assert await batcher.submit("good", LATER) == "fine"


def test_a_deadline_counts_down_and_stays_at_zero() -> None:
    """What remains is never negative."""
    assert 0 < Deadline.after(60).remaining <= 60
    past = Deadline(time.monotonic() - 1)
    assert (past.remaining, past.expired) == (0.0, True)
