import asyncio
from collections import deque
from collections.abc import Sequence

import pytest

from tests.server.fakes import SOON, eventually, in_time, running, sample
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, ResourceExhausted
from vitrail.server.batching import Batcher, Ticket, take_batch

NOW = 100.0


def waiting_callers(text: str) -> deque[Ticket[str, str]]:
    """Callers as "a2": a's item of size 2; "b1!": b's time is over; "c1-": c has left."""
    tickets: deque[Ticket[str, str]] = deque()
    for word in text.split():
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if word.endswith("-"):
            future.cancel()
        at = NOW if word.endswith("!") else NOW + 1
        tickets.append(Ticket(word[0], int(word.rstrip("!-")[1:]), Deadline(at), future))
    return tickets


def names(tickets: Sequence[Ticket[str, str]] | deque[Ticket[str, str]]) -> str:
    return " ".join(ticket.item for ticket in tickets)


@pytest.mark.parametrize(
    ("waiting", "limit", "batch", "skipped", "left"),
    [
        # Nobody, one, and as many as fit.
        ("", 4, "", "", ""),
        ("a1", 4, "a", "", ""),
        ("a1 b1 c1", 4, "a b c", "", ""),
        ("a1 b1 c1", 2, "a b", "", "c"),
        # Sizes count, not callers.
        ("a2 b2 c1", 4, "a b", "", "c"),
        # Nobody overtakes: c would fit, and waits behind b.
        ("a2 b3 c1", 4, "a", "", "b c"),
        # One that is larger than the limit goes alone.
        ("a9 b1", 4, "a", "", "b"),
        ("a1 b9", 4, "a", "", "b"),
        # Callers who left, and those whose time is over, are skipped and take no room.
        ("a1- b1", 4, "b", "a", ""),
        ("a1! b1", 4, "b", "a", ""),
        ("a2 b9- c2", 4, "a c", "b", ""),
        ("a4 b1! c1", 4, "a", "b", "c"),
        ("a1! b1- c1!", 4, "", "a b c", ""),
    ],
)
async def test_take_batch(waiting: str, limit: int, batch: str, skipped: str, left: str) -> None:
    """A batch is what waits in front, as far as it fits, without those who need no answer any more."""
    tickets = waiting_callers(waiting)
    found = take_batch(tickets, limit, NOW)
    assert (names(found[0]), names(found[1]), names(tickets)) == (batch, skipped, left)


class Echo:
    """Answers each item with itself in capitals, once it is let go on; remembers the batches."""

    def __init__(self, *, limit: int = 100, capacity: int = 100, shared_limit: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None
        self.batcher: Batcher[str, str] = Batcher(
            "test", self._process, limit=limit, capacity=capacity, shared_limit=shared_limit
        )

    async def _process(self, tickets: Sequence[Ticket[str, str]]) -> None:
        self.batches.append([ticket.item for ticket in tickets])
        await self.free.wait()
        if self.error:
            raise self.error
        for ticket in tickets:
            ticket.answer(ticket.item.upper())

    async def waits(self, size: int) -> None:
        """Return once items of this total size wait."""
        await eventually(lambda: sample("vitrail_queue_depth_items", queue="test") == size)

    async def busy(self) -> "asyncio.Task[str]":
        """Have one item, "a", in work, and keep it there."""
        self.free.clear()
        first = self.submit("a")
        await eventually(lambda: self.batches == [["a"]])
        return first

    def submit(self, item: str, deadline: Deadline | None = None, size: int = 1) -> "asyncio.Task[str]":
        return asyncio.create_task(self.batcher.submit(item, deadline or in_time(), size))


async def test_how_long_the_first_waited_is_counted() -> None:
    """Once a batch, and how much may wait beside it."""
    echo = Echo(capacity=7)
    before = {what: sample(f"vitrail_queue_seconds_{what}", queue="test") for what in ("count", "sum")}
    assert sample("vitrail_queue_capacity_items", queue="test") >= 7
    async with running(echo.batcher):
        first = await echo.busy()
        rest = [echo.submit(item) for item in "bc"]
        await echo.waits(2)
        await asyncio.sleep(0.02)
        echo.free.set()
        assert await asyncio.gather(first, *rest) == ["A", "B", "C"]
    assert sample("vitrail_queue_seconds_count", queue="test") - before["count"] == 2
    assert 0.02 <= sample("vitrail_queue_seconds_sum", queue="test") - before["sum"] < SOON


async def test_a_lone_item_goes_at_once() -> None:
    """A free queue waits for nobody: one item is a batch."""
    echo = Echo()
    async with running(echo.batcher):
        assert await echo.submit("a") == "A"
        assert await echo.submit("b") == "B"
    assert echo.batches == [["a"], ["b"]]


async def test_what_arrives_during_a_batch_is_the_next() -> None:
    """All that waits when the batch ends goes together, in the order in which it came."""
    echo = Echo()
    async with running(echo.batcher):
        first = await echo.busy()
        others = [echo.submit(item) for item in "bcd"]
        await echo.waits(3)
        assert echo.batches == [["a"]]
        echo.free.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert echo.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_keeps_to_its_limit() -> None:
    """More than one batch's worth goes in several."""
    echo = Echo(limit=2)
    async with running(echo.batcher):
        first = await echo.busy()
        others = [echo.submit(item) for item in "bcd"]
        await echo.waits(3)
        echo.free.set()
        await asyncio.gather(first, *others)
    assert echo.batches == [["a"], ["b", "c"], ["d"]]


async def test_a_full_queue_refuses_at_once() -> None:
    """Whoever finds it full is told when to come again, and those who wait are not disturbed."""
    echo = Echo(capacity=2)
    refused = sample("vitrail_refused_total", queue="test")
    async with running(echo.batcher):
        first = await echo.busy()
        others = [echo.submit(item) for item in "bc"]
        await echo.waits(2)
        with pytest.raises(ResourceExhausted) as caught:
            await echo.batcher.submit("d", in_time())
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after < SOON
        assert sample("vitrail_refused_total", queue="test") == refused + 1
        echo.free.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C"]
        assert await echo.submit("d") == "D"


async def test_one_item_larger_than_the_queue() -> None:
    """What could never fit is taken when nothing else waits, and refused behind others."""
    echo = Echo(capacity=2)
    async with running(echo.batcher):
        assert await echo.submit("x", size=5) == "X"
        echo.batches.clear()
        first = await echo.busy()
        second = echo.submit("b")
        await echo.waits(1)
        with pytest.raises(ResourceExhausted):
            await echo.batcher.submit("x", in_time(), size=5)
        echo.free.set()
        await asyncio.gather(first, second)


async def test_expired_work_is_not_begun() -> None:
    """A caller whose time is over while it waits gets DeadlineExceeded, and its item never reaches the device."""
    echo = Echo()
    async with running(echo.batcher):
        first = await echo.busy()
        late = echo.submit("b", Deadline.after(0.02))
        other = echo.submit("c")
        with pytest.raises(DeadlineExceeded):
            await late
        echo.free.set()
        assert [await first, await other] == ["A", "C"]
    assert echo.batches == [["a"], ["c"]]


async def test_no_time_left_at_all() -> None:
    """A deadline that has passed already costs nothing."""
    echo = Echo()
    async with running(echo.batcher):
        with pytest.raises(DeadlineExceeded):
            await echo.batcher.submit("a", Deadline.after(-1.0))
        assert await echo.submit("b") == "B"
    assert echo.batches == [["b"]]


async def test_a_caller_who_left_is_skipped() -> None:
    """Nothing is done for a call that was cancelled."""
    echo = Echo()
    async with running(echo.batcher):
        first = await echo.busy()
        gone, other = echo.submit("b"), echo.submit("c")
        await echo.waits(2)
        gone.cancel()
        await eventually(gone.done)
        echo.free.set()
        assert [await first, await other] == ["A", "C"]
    assert echo.batches == [["a"], ["c"]]


async def test_an_exception_fails_its_own_batch_alone() -> None:
    """Each caller of the batch gets the error; the queue goes on with the next."""
    echo = Echo()
    async with running(echo.batcher):
        first = await echo.busy()
        others = [echo.submit(item) for item in "bc"]
        await echo.waits(2)
        echo.error = ValueError("no device")
        echo.free.set()
        for caller in (first, *others):
            with pytest.raises(ValueError, match="no device"):
                await caller
        echo.error = None
        assert await echo.submit("d") == "D"
    assert echo.batches == [["a"], ["b", "c"], ["d"]]


async def test_who_asks_goes_before_who_brings_many() -> None:
    """Bulk work waits while others do, but has its turn now and then; its batches are small while others ask, too."""
    echo = Echo(limit=4, shared_limit=1)
    echo.free.clear()
    calls = [asyncio.create_task(echo.batcher.submit("x", in_time()))]
    async with running(echo.batcher):
        await eventually(lambda: echo.batches == [["x"]])
        calls += [asyncio.create_task(echo.batcher.submit(item, in_time(), bulk=True)) for item in "abc"]
        calls += [asyncio.create_task(echo.batcher.submit(item, in_time(), 4)) for item in "defgh"]
        await echo.waits(23)
        echo.free.set()
        answers = await asyncio.gather(*calls)
    assert answers == list("XABCDEFGH")
    assert echo.batches == [["x"], ["d"], ["e"], ["f"], ["a"], ["g"], ["h"], ["b"], ["c"]]


async def test_bulk_work_alone_has_large_batches() -> None:
    echo = Echo(limit=4, shared_limit=1)
    async with running(echo.batcher):
        await asyncio.gather(*(echo.batcher.submit(item, in_time(), bulk=True) for item in "abcdef"))
    assert echo.batches == [list("abcd"), list("ef")]


async def test_several_share_a_queue() -> None:
    """While one works on its batch, another one takes what comes next."""
    echo = Echo(limit=1)
    echo.free.clear()
    async with running(echo.batcher), running(echo.batcher):
        calls = [asyncio.create_task(echo.batcher.submit(item, in_time())) for item in "abc"]
        await eventually(lambda: len(echo.batches) == 2)
        echo.free.set()
        assert await asyncio.gather(*calls) == list("ABC")
