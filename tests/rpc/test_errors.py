import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vitrail.rpc import attributes, vectors
from vitrail.rpc.channel import STATUS_DETAILS
from vitrail.rpc.errors import (
    AlreadyExists,
    DeadlineExceeded,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    VitrailError,
    from_status,
)
from vitrail.rpc.process import serve_metrics
from vitrail.rpc.server import Server
from vitrail.rpc.slots import slot_of
from vitrail.v1.log_pb2 import DESCRIPTOR as LOG
from vitrail.v1.log_pb2 import FollowRequest, FollowResponse
from vitrail.v1.log_pb2_grpc import LogServiceServicer, LogServiceStub, add_LogServiceServicer_to_server
from vitrail.v1.search_pb2 import DESCRIPTOR as SEARCH
from vitrail.v1.search_pb2 import BatchSearchRequest, BatchSearchResponse, SearchRequest, SearchResponse
from vitrail.v1.search_pb2_grpc import SearchServiceServicer, SearchServiceStub, add_SearchServiceServicer_to_server

ERRORS = [
    InvalidArgument("must be from 1 to 1,000, not 0", field="top_k"),
    NotFound("there is no collection", field="collection"),
    AlreadyExists("it is there"),
    FailedPrecondition("it does not fit"),
    EmbeddingSpaceMismatch("of another space", field="query.vector"),
    ResourceExhausted("the queue is full", retry_after=0.25),
    Unavailable("the store is away", retry_after=1.0),
    DeadlineExceeded("too late"),
    VitrailError("something else"),
]


class Failing(SearchServiceServicer, LogServiceServicer):
    """Fails as it is told."""

    error: Exception | None = None

    async def Search(self, request: SearchRequest, context: Any) -> SearchResponse:  # noqa: N802
        if self.error is not None:
            raise self.error
        return SearchResponse()

    async def BatchSearch(self, request: BatchSearchRequest, context: Any) -> BatchSearchResponse:  # noqa: N802
        raise NotImplementedError

    async def Follow(self, request: FollowRequest, context: Any) -> AsyncIterator[FollowResponse]:  # noqa: N802
        yield FollowResponse()
        if self.error is not None:
            raise self.error


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return serve_metrics("127.0.0.1", 0)


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Failing, grpc.aio.Channel]]:
    from prometheus_client import CollectorRegistry

    # Each server of a process registers its metrics; a process has one server, a test run has many.
    monkeypatch.setattr("vitrail.rpc.server.REGISTRY", CollectorRegistry())
    failing, server = Failing(), Server("127.0.0.1", 0)
    server.add(add_SearchServiceServicer_to_server, failing, SEARCH.services_by_name["SearchService"].full_name)
    server.add(add_LogServiceServicer_to_server, failing, LOG.services_by_name["LogService"].full_name)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await server.set_serving(True)
        yield failing, channel
    await server.drain(1.0)


def read(error: grpc.aio.AioRpcError) -> VitrailError:
    details = dict(error.trailing_metadata())[STATUS_DETAILS]
    return from_status(status_pb2.Status.FromString(bytes(details)))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_errors_come_over_the_wire_as_they_were_raised(
    error: VitrailError, served: tuple[Failing, grpc.aio.Channel]
) -> None:
    """Class, message, field and delay are those that the server raised, in unary calls and in streams."""
    failing, channel = served
    failing.error = error
    stub: Any = SearchServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Search(SearchRequest())
    log: Any = LogServiceStub(channel)
    stream = log.Follow(FollowRequest())
    await stream.read()
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        await stream.read()
    for raised in (caught.value, streamed.value):
        again = read(raised)
        assert type(again) is type(error)
        assert (again.message, again.field, again.retry_after) == (error.message, error.field, error.retry_after)
        assert raised.code().value[0] == error.code


async def test_an_unexpected_error_tells_nothing_of_itself(
    served: tuple[Failing, grpc.aio.Channel], capsys: pytest.CaptureFixture[str]
) -> None:
    """The caller learns that it was internal; what it was stands in the log."""
    failing, channel = served
    failing.error = KeyError("secret")
    stub: Any = SearchServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Search(SearchRequest())
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())
    assert "secret" in "".join(capsys.readouterr())


async def test_health_says_whether_a_server_wants_traffic(served: tuple[Failing, grpc.aio.Channel]) -> None:
    """For the whole server and for each service."""
    stub: Any = health_pb2_grpc.HealthStub(served[1])
    for service in ("", "vitrail.v1.SearchService"):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_are_served_as_text(metrics_port: int) -> None:
    """Prometheus can read them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
        assert b"# HELP" in response.read()


@pytest.mark.parametrize(("record_id", "slot"), [("", 409), ("a", 603), ("shoes/1.jpg", 866), ("ключ", 412)])
def test_slots_are_fixed_for_ever(record_id: str, slot: int) -> None:
    """Every store and partition depends on these numbers."""
    assert slot_of(record_id) == slot


def test_vectors_are_little_endian_float32_row_after_row() -> None:
    """Any float type becomes the same bytes, and bytes that are no whole rows are refused."""
    rows = np.array([[1.0, -2.0], [0.5, 0.0]], np.float64)
    assert vectors.to_bytes(rows) == b"\0\0\x80?\0\0\0\xc0\0\0\0?\0\0\0\0"
    np.testing.assert_array_equal(vectors.from_bytes(vectors.to_bytes(rows), 2), rows)
    for data, dimension in ((b"123", 1), (b"1234", 2), (b"1234", 0)):
        with pytest.raises(ValueError, match="are not rows"):
            vectors.from_bytes(data, dimension)


def test_attributes_come_back_as_they_were() -> None:
    """Every type there is; a naive time is taken as UTC, and a boolean is no integer."""
    moment = datetime(2026, 11, 24, 12, tzinfo=UTC)
    given: dict[str, attributes.AttributeValue] = {
        "boolean": True,
        "float": 1.5,
        "integer": -(2**63),
        "string": "hat",
        "strings": ["a", "b"],
        "timestamp": moment.replace(tzinfo=None),
    }
    read_back = attributes.from_values({name: attributes.to_value(name, value) for name, value in given.items()})
    assert read_back == given | {"timestamp": moment}
    assert read_back["boolean"] is True


@pytest.mark.parametrize("value", [2**63, b"bytes", None, ["a", 1], {"a": 1}, object()])
def test_what_is_no_attribute_is_refused_by_name(value: Any) -> None:
    """The field names the attribute."""
    with pytest.raises(InvalidArgument) as caught:
        attributes.to_value("price", value)
    assert caught.value.field == "attributes.price"
