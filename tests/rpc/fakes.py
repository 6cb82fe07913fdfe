"""A server with one method of each kind, which fails as it is told."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from vitrail.rpc.server import Context, Server
from vitrail.v1.search_pb2 import DESCRIPTOR as SEARCH

SERVICE = "vitrail.test.Echo"


class Echo:
    """Answers each message with itself; `error`, where there is one, is raised instead, in streams after the first."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.registry = CollectorRegistry()
        self.address = ""
        self.on_call: Callable[[str], object] = lambda peer: None
        """Told where each unary call comes from."""

    def fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def unary(self, request: bytes, context: Context) -> bytes:
        self.fail()
        self.on_call(context.peer())
        return request

    async def gather(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        self.fail()
        return b"".join([request async for request in requests])

    async def spread(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for byte in request:
            yield bytes([byte])
            self.fail()

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            self.fail()

    async def refuse(self, request: bytes, context: Context) -> bytes:
        """Fail as a servicer does that knows nothing of our errors."""
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

    def register(self, _: Any, server: grpc.aio.Server) -> None:
        methods: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Gather": grpc.stream_unary_rpc_method_handler(self.gather),
            "Spread": grpc.unary_stream_rpc_method_handler(self.spread),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def sample(self, name: str, *, kind: str, method: str, service: str = SERVICE, **labels: str) -> float | None:
        """The value of one of the server's metrics."""
        names = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
        return self.registry.get_sample_value(name, names | labels)


async def call(channel: grpc.aio.Channel, method: str) -> bytes:
    """Call a method of `Echo` with "ab", a message a byte where it takes a stream; all of its answer."""

    async def letters() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    path = f"/{SERVICE}/{method}"
    make: Any = {
        "Unary": channel.unary_unary,
        "Refuse": channel.unary_unary,
        "Missing": channel.unary_unary,
        "Gather": channel.stream_unary,
        "Spread": channel.unary_stream,
        "Chat": channel.stream_stream,
    }[method](path)
    request = letters() if method in ("Gather", "Chat") else b"ab"
    if method in ("Spread", "Chat"):
        return b"|".join([response async for response in make(request)])
    return bytes(await make(request))


@contextlib.asynccontextmanager
async def serving(connection_seconds: float = 0.0) -> AsyncIterator[tuple[Echo, Server]]:
    """The server of `Echo`, on a free port until the block ends."""
    echo = Echo()
    server = Server("127.0.0.1", 0, connection_seconds=connection_seconds, registry=echo.registry)
    server.add(echo.register, echo, SERVICE)
    # Only the name of one that reflection can describe.
    server.add(lambda *_: None, None, SEARCH.services_by_name["SearchService"].full_name)
    echo.address = f"127.0.0.1:{await server.start()}"
    await server.set_serving(True)
    try:
        yield echo, server
    finally:
        await server.drain(1.0)
