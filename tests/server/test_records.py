import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.server.fakes import eventually
from vitrail.server.records import _batches
from vitrail.v1.record_pb2 import RecordInput, StreamRecordsRequest


def request(name: str) -> StreamRecordsRequest:
    return StreamRecordsRequest(record=RecordInput(id=name))


async def arriving(names: str, error: Exception | None = None) -> AsyncIterator[StreamRecordsRequest]:
    for name in names:
        yield request(name)
    if error is not None:
        raise error


async def taken(requests: AsyncIterator[StreamRecordsRequest], limit: int) -> str:
    """The ids of what came."""
    batches = [batch async for batch in _batches(requests, limit)]
    assert all(1 <= len(batch) <= limit for batch in batches)
    return "".join(one.record.id for batch in batches for one in batch)


@pytest.mark.parametrize("limit", [1, 2, 3, 64])
@pytest.mark.parametrize("names", ["", "a", "abcdefg"])
async def test_a_stream_is_taken_in_batches(names: str, limit: int) -> None:
    """Everything comes, once and in order, in batches of at most the limit."""
    assert await taken(arriving(names), limit) == names


async def test_a_stream_that_breaks_fails_after_what_came() -> None:
    """Its error reaches whoever reads the batches."""
    with pytest.raises(ConnectionError):
        await taken(arriving("abc", ConnectionError()), 2)


async def test_leaving_a_stream_leaves_no_task() -> None:
    """Who stops reading, with more waiting than the queue holds, leaves nothing running behind."""
    before = asyncio.all_tasks()
    batches = _batches(arriving("abcdefghij"), 2)
    await anext(batches)
    for _ in range(10):  # let the queue fill up, so that the reader waits for room
        await asyncio.sleep(0)
    assert asyncio.all_tasks() > before
    await batches.aclose()  # type: ignore[attr-defined]  # an async generator, whatever it is annotated as
    await eventually(lambda: asyncio.all_tasks() == before)
