"""What every server has: health, reflection, metrics, and errors that become status codes."""

import asyncio
import os
import signal
import socket
import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from tests.rpc.fakes import SERVICE, Echo, call, serving
from tests.server.fakes import eventually
from vitrail.rpc.address import host_port
from vitrail.rpc.errors import InvalidArgument, ResourceExhausted
from vitrail.rpc.process import serve_metrics
from vitrail.rpc.server import Server, wait_for_signal

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


KINDS = [
    ("Unary", "unary", b"ab"),
    ("Gather", "client_stream", b"ab"),
    ("Spread", "server_stream", b"a|b"),
    ("Chat", "bidi_stream", b"a|b"),
]


@pytest.mark.parametrize(("method", "kind", "answer"), KINDS)
async def test_calls_of_every_kind_are_counted_and_timed(
    echo: Echo, channel: grpc.aio.Channel, method: str, kind: str, answer: bytes
) -> None:
    """The metrics have the names and labels that dashboards for gRPC know."""
    for _ in range(2):
        assert await call(channel, method) == answer
    assert echo.sample("grpc_server_started_total", kind=kind, method=method) == 2
    assert echo.sample("grpc_server_handled_total", kind=kind, method=method, grpc_code="OK") == 2
    assert echo.sample("grpc_server_handling_seconds_count", kind=kind, method=method) == 2
    assert echo.sample("grpc_server_handling_seconds_bucket", kind=kind, method=method, le="+Inf") == 2


@pytest.mark.parametrize(("method", "kind", "answer"), KINDS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("no", field="f"), grpc.StatusCode.INVALID_ARGUMENT),
        (ResourceExhausted("no", retry_after=1.0), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (KeyError("no"), grpc.StatusCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_failures_are_counted_by_their_code(
    echo: Echo, channel: grpc.aio.Channel, method: str, kind: str, answer: bytes, error: Exception, code: Any
) -> None:
    """Whatever the kind of the call, its failure has the code that the caller sees."""
    echo.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, method)
    assert caught.value.code() == code
    assert echo.sample("grpc_server_handled_total", kind=kind, method=method, grpc_code=code.name) == 1
    assert echo.sample("grpc_server_handled_total", kind=kind, method=method, grpc_code="OK") == 0
    assert echo.sample("grpc_server_handling_seconds_count", kind=kind, method=method) == 1


async def test_a_status_that_is_not_ours_passes(echo: Echo, channel: grpc.aio.Channel) -> None:
    """A servicer that aborts by itself is neither changed nor taken for a fault."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "Refuse")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
    refused = {"kind": "unary", "method": "Refuse", "grpc_code": "PERMISSION_DENIED"}
    # The servicer has sent its status before the call is counted.
    await eventually(lambda: echo.sample("grpc_server_handled_total", **refused) == 1)


async def test_a_call_whose_caller_leaves_is_cancelled(echo: Echo, channel: grpc.aio.Channel) -> None:
    """It is counted as such, and as nothing else."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    watch.cancel()
    watches = {"kind": "server_stream", "service": "grpc.health.v1.Health", "method": "Watch"}
    await eventually(lambda: echo.sample("grpc_server_handled_total", grpc_code="CANCELLED", **watches) == 1)
    assert echo.sample("grpc_server_handled_total", grpc_code="OK", **watches) == 0


async def test_a_stream_whose_reader_leaves_is_cancelled(echo: Echo, channel: grpc.aio.Channel) -> None:
    """Also where the server stands between two messages: it is not counted as having ended well."""
    stub: Any = channel
    reading = stub.unary_stream(f"/{SERVICE}/Spread")(b"a" * 100_000)
    await reading.read()
    reading.cancel()
    stream = {"kind": "server_stream", "method": "Spread"}
    await eventually(lambda: echo.sample("grpc_server_handled_total", grpc_code="CANCELLED", **stream) == 1)
    assert echo.sample("grpc_server_handled_total", grpc_code="OK", **stream) == 0


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    """What no service has is refused by its code."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "Missing")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_an_unexpected_error_tells_nothing_of_itself(
    echo: Echo, channel: grpc.aio.Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The caller learns that it was internal; what it was stands in the log."""
    echo.error = KeyError("secret")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "Unary")
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details()) + str(caught.value.trailing_metadata())
    assert "secret" in "".join(capsys.readouterr())


@pytest.mark.parametrize("service", ["", SERVICE, "grpc.health.v1.Health"])
async def test_health_says_whether_a_server_wants_traffic(
    server: Server, channel: grpc.aio.Channel, service: str
) -> None:
    """For the whole server and for each service, as it was set last."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await stub.Check(request)).status == SERVING
    await server.set_serving(False)
    assert (await stub.Check(request)).status == NOT_SERVING


async def test_health_tells_alive_and_started_from_serving() -> None:
    """Three names: `live` from the first moment to the last, `started` from when that was said, whatever comes."""
    server = Server("127.0.0.1", 0, registry=CollectorRegistry())
    await server.set_serving(False)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def told() -> list[int]:
            requests = [health_pb2.HealthCheckRequest(service=name) for name in ("live", "started", "")]
            return [(await stub.Check(request)).status for request in requests]

        assert await told() == [SERVING, NOT_SERVING, NOT_SERVING]
        await server.set_started()
        assert await told() == [SERVING, SERVING, NOT_SERVING]
        await server.set_serving(True)
        assert await told() == [SERVING, SERVING, SERVING]
        settling = asyncio.create_task(server.settle(60.0))
        while await told() != [SERVING, SERVING, NOT_SERVING]:
            pass
        settling.cancel()
    await server.drain(1.0)


async def test_an_address_of_ipv6_is_listened_on() -> None:
    """As on a cluster whose pods have no others: the address is put into brackets."""
    server = Server("::1", 0, registry=CollectorRegistry())
    address = host_port("::1", await server.start())
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="live"))).status == SERVING
    await server.drain(1.0)
    assert address.startswith("[::1]:")


async def test_settling_answers_calls_until_another_signal(
    echo: Echo, server: Server, channel: grpc.aio.Channel
) -> None:
    """Who has not yet heard that no calls are wanted is answered; a second signal, or the end of the time, ends it."""
    told = asyncio.create_task(wait_for_signal())
    await asyncio.sleep(0)  # it listens from here on
    os.kill(os.getpid(), signal.SIGTERM)
    assert await told == "SIGTERM"
    settling = asyncio.create_task(server.settle(60.0))
    assert await call(channel, "Unary") == b"ab"
    assert not settling.done()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(30.0):
        await settling
        await server.settle(0.0)


async def test_connections_of_an_age_are_made_anew_and_no_call_fails() -> None:
    """Callers that never pause see no error, and a stream outlives the connection that it came by."""
    async with serving(connection_seconds=0.3) as (echo, _), grpc.aio.insecure_channel(echo.address) as channel:
        chat: Any = channel.stream_stream(f"/{SERVICE}/Chat")()
        await chat.write(b"a")
        assert await chat.read() == b"a"
        peers = set[str]()
        echo.on_call = peers.add

        async def ask() -> None:
            while len(peers) < 4:
                assert await call(channel, "Unary") == b"ab"

        async with asyncio.timeout(30.0):
            await asyncio.gather(*(ask() for _ in range(8)))
        await chat.write(b"b")
        assert await chat.read() == b"b"
        await chat.done_writing()
        assert await chat.read() == grpc.aio.EOF


async def test_health_is_watched(server: Server, channel: grpc.aio.Channel) -> None:
    """Clients that balance load follow the health of a server as a stream."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_reflection_lists_and_describes(channel: grpc.aio.Channel) -> None:
    """A tool without our files finds every service, and the description of what it calls."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest
    asked = [request(list_services=""), request(file_containing_symbol="vitrail.v1.SearchService")]
    listed, described = [response async for response in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "vitrail.v1.ProcessService",
        "vitrail.v1.SearchService",
        SERVICE,
    }
    assert described.file_descriptor_response.file_descriptor_proto


async def test_draining_lets_calls_in_flight_finish(echo: Echo, server: Server, channel: grpc.aio.Channel) -> None:
    """A call that is being answered ends well, those that come after are refused."""
    chat: Any = channel.stream_stream(f"/{SERVICE}/Chat")()
    await chat.write(b"a")
    assert await chat.read() == b"a"
    draining = asyncio.create_task(server.drain(10.0))
    code = grpc.StatusCode.OK
    async with grpc.aio.insecure_channel(echo.address) as another:
        while code != grpc.StatusCode.UNAVAILABLE:  # what comes at that very moment may end otherwise
            try:
                await call(another, "Unary")
            except grpc.aio.AioRpcError as error:
                code = error.code()
    assert not draining.done()
    await chat.write(b"b")
    assert await chat.read() == b"b"
    await chat.done_writing()
    assert await chat.read() == grpc.aio.EOF
    await draining


async def test_draining_has_a_limit(server: Server, channel: grpc.aio.Channel) -> None:
    """A call that never ends is cut off."""
    chat: Any = channel.stream_stream(f"/{SERVICE}/Chat")()
    await chat.write(b"a")
    assert await chat.read() == b"a"
    await server.drain(0.05)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await chat.read()


async def test_a_port_that_is_taken() -> None:
    """It is an OSError that names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server("127.0.0.1", taken.getsockname()[1], registry=CollectorRegistry())
        with pytest.raises(OSError, match=address):
            await server.start()


def test_metrics_are_served_as_text() -> None:
    """Prometheus can read them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{serve_metrics('127.0.0.1', 0)}/metrics") as response:
        assert b"# HELP" in response.read()
