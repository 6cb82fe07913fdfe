import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running, wait_applied
from vitrail.client import Client
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.v1.record_pb2 import RecordInput, StreamRecordsRequest, StreamRecordsResponse
from vitrail.v1.record_pb2_grpc import RecordServiceStub
from vitrail.v1.types_pb2 import Value, Vector


@pytest.fixture
async def stub(cluster: Running) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(cluster.address, options=CLIENT_OPTIONS) as channel:
        yield RecordServiceStub(channel)


def requests(name: str, records: Iterator[RecordInput]) -> Iterator[StreamRecordsRequest]:
    """As a client streams: the collection stands in the first message alone."""
    for place, record in enumerate(records):
        yield StreamRecordsRequest(collection="" if place else name, record=record)


async def stream(stub: Any, name: str, records: Iterator[RecordInput]) -> list[StreamRecordsResponse]:
    return [response async for response in stub.StreamRecords(requests(name, records))]


async def test_each_record_of_a_stream_gets_its_own_answer_in_order(client: Client, name: str, stub: Any) -> None:
    """More records than are written at once, some of them wrong: the others are there, and the answers in order."""
    client.create_collection(name, dimension=2)

    def records() -> Iterator[RecordInput]:
        for n in range(300):
            values = [float("nan"), 1.0] if n % 50 == 7 else [1.0, n]
            yield RecordInput(id=f"r{n:03}", vector=Vector(values=values), attributes={"n": Value(integer_value=n)})

    answers = await stream(stub, name, records())
    assert [answer.id for answer in answers] == [f"r{n:03}" for n in range(300)]
    wrong = {answer.id: answer.error for answer in answers if answer.HasField("error")}
    assert {one: (error.index, error.field) for one, error in wrong.items()} == {
        f"r{n:03}": (n, "vector") for n in range(7, 300, 50)
    }
    seqs = [answer.seq for answer in answers if answer.id not in wrong]
    assert seqs == sorted(seqs)
    assert min(seqs) > 0
    assert wait_applied(client, name).records == 294
    assert client.get(name, "r299").attributes == {"n": 299}


async def test_images_are_streamed_too(client: Client, name: str, stub: Any) -> None:
    """A stream of photos with one that is none."""
    client.create_collection(name)
    photos = [jpeg(tile) for _, tile in list(tiles())[:5]]
    photos[2] = b"no image"
    records = (RecordInput(id=f"p{place}", image=photo) for place, photo in enumerate(photos))
    answers = await stream(stub, name, records)
    assert [answer.error.field for answer in answers] == ["", "", "image", "", ""]
    assert [record.id for record in client.list(name)] == ["p0", "p1", "p3", "p4"]


async def test_a_stream_into_nowhere_is_not_found(stub: Any) -> None:
    """The status of the call, before any answer."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(stub, "nowhere", iter([RecordInput(id="a", vector=Vector(values=[1, 0]))]))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_stream_of_nothing_answers_nothing(stub: Any) -> None:
    """It ends as it should."""
    assert await stream(stub, "anything", iter([])) == []


async def test_a_stream_that_its_caller_leaves_holds_up_nobody(client: Client, name: str, stub: Any) -> None:
    """What was answered is written; the server goes on with the next."""
    client.create_collection(name, dimension=2)

    async def without_end() -> AsyncIterator[StreamRecordsRequest]:
        for n in range(10**9):
            record = RecordInput(id=f"r{n}", vector=Vector(values=[1.0, n]))
            yield StreamRecordsRequest(collection=name, record=record)
            await asyncio.sleep(0)

    call = stub.StreamRecords(without_end())
    answered = [await call.read() for _ in range(200)]
    call.cancel()
    stored = {record.id for record in client.list(name)}
    assert {answer.id for answer in answered} <= stored
    assert [answer.id for answer in await stream(stub, name, iter([RecordInput(id="r0")]))] == ["r0"]
