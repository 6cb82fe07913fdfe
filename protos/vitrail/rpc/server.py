"""A gRPC server's life, the same for every process: start, serve, settle, drain.

Every server has health, reflection, the standard `grpc_server_*` metrics, and one place where errors of the
domain become status codes. Health has three names for Kubernetes beside those of services: `live` while the event loop
answers, `started` for good once the process has done what it does first, and the empty one while calls are wanted.
"""

import asyncio
import contextlib
import inspect
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from vitrail.rpc import tracing
from vitrail.rpc.address import host_port
from vitrail.rpc.channel import OPTIONS, STATUS_DETAILS
from vitrail.rpc.errors import VitrailError, to_status
from vitrail.rpc.logs import ProcessService
from vitrail.v1.process_pb2 import DESCRIPTOR as PROCESS
from vitrail.v1.process_pb2_grpc import add_ProcessServiceServicer_to_server

log = structlog.get_logger()

if TYPE_CHECKING:  # only the stubs of these are generic
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Context = grpc.aio.ServicerContext

PROCESS_SERVICE = PROCESS.services_by_name["ProcessService"].full_name
LIVE, STARTED = "live", "started"
STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Server:
    """A server on one address. `add` services, then `start`, `wait_for_signal`, `settle`, `drain`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        connection_seconds: float = 0.0,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """Nothing is bound yet.

        Args:
            host: The address to listen on.
            port: 0 takes a free one.
            reuse_port: Whether another socket may hold the same port.
            connection_seconds: After so long, give or take a tenth, callers are asked to connect anew; what is in
                flight goes on, however long. 0 for never.
            registry: Of the metrics.
        """
        options = [*OPTIONS, ("grpc.so_reuseport", int(reuse_port))]
        if connection_seconds:
            options.append(("grpc.max_connection_age_ms", max(1, int(1000 * connection_seconds))))
        self._server = grpc.aio.server(options=options)
        self._boundary: Any = Boundary(self._server, registry)  # stands for the server where services are added
        self._health = health.aio.HealthServicer()
        self._names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        self._host, self._port = host, port
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._boundary)
        self.add(add_ProcessServiceServicer_to_server, ProcessService(), PROCESS_SERVICE)

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, full_name: str) -> None:
        """Add one service by the function that grpc generated for it."""
        register(servicer, self._boundary)
        self._names.append(full_name)

    async def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            OSError: The address cannot be bound.
        """
        described = reflection.aio.ReflectionServicer(self._names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, self._boundary)
        address = host_port(self._host, self._port)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(STARTED, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return port

    async def set_started(self) -> None:
        """Say to health checks that what the process does first is done; for good."""
        await self._health.set(STARTED, health_pb2.HealthCheckResponse.SERVING)

    async def set_serving(self, serving: bool) -> None:
        """Say to health checks whether this server wants traffic."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def settle(self, seconds: float) -> None:
        """Want no more calls, and answer those that come until it is known: for `seconds`, or until another signal."""
        await self.set_serving(False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_for_signal(), seconds)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let those in flight finish, and cut off what takes longer than `seconds`."""
        await self.set_serving(False)
        await self._server.stop(seconds)


async def wait_for_signal() -> str:
    """Wait for SIGTERM or SIGINT; returns its name."""
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def receive(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, receive, number)
    return await received


class Boundary:
    """Where calls enter and leave: counted, timed, and errors of the domain turned into status codes.

    Services are added through it, and their handlers are wrapped then, once: asking an interceptor of grpc's on every
    call cost a tenth of an echo's CPU more.
    """

    def __init__(self, server: grpc.aio.Server, registry: CollectorRegistry) -> None:
        self._server = server
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self._started = Counter("grpc_server_started", "RPCs started on the server.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled",
            "RPCs completed on the server, whatever their status.",
            [*labels, "grpc_code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time that the server took for an RPC.",
            labels,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As the method of `grpc.aio.Server`, for what grpc generates."""
        self._server.add_generic_rpc_handlers([_Wrapped(handler, self) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """As the method of `grpc.aio.Server`, for what grpc generates."""
        wrapped = {name: self.wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """A handler that is counted, timed and translated."""
        kind = (
            ("client_stream" if handler.request_streaming else "unary")
            if not handler.response_streaming
            else ("bidi_stream" if handler.request_streaming else "server_stream")
        )
        _, service, name = method.split("/")
        # Looked up once a method: finding a metric by its labels takes longer than counting.
        counts = _Counts(self._started, self._handled, self._seconds, (kind, service, name))
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def answer(request: Any, context: Context) -> Any:
            start = counts.begin()
            try:
                with tracing.call(service, name, context.invocation_metadata()):
                    response = await inner(request, context)
            except BaseException as error:
                await counts.failed(error, start, context)
                raise
            counts.end(grpc.StatusCode.OK, start)
            return response

        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            start = counts.begin()
            try:
                responses = inner(request, context)
                if inspect.isawaitable(responses):  # it writes to the context, as that of health checks does
                    await responses
                else:
                    async for response in responses:
                        yield response
            except BaseException as error:
                await counts.failed(error, start, context)
                raise
            counts.end(grpc.StatusCode.OK, start)

        make: Callable[..., Handler] = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "client_stream": grpc.stream_unary_rpc_method_handler,
            "server_stream": grpc.unary_stream_rpc_method_handler,
            "bidi_stream": grpc.stream_stream_rpc_method_handler,
        }[kind]
        return make(
            answers if handler.response_streaming else answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class _Wrapped(grpc.GenericRpcHandler):
    """Looks methods up in another handler, and wraps each once."""

    def __init__(self, inner: grpc.GenericRpcHandler, boundary: Boundary) -> None:
        self._inner = inner
        self._boundary = boundary
        self._handlers: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = self._inner.service(handler_call_details)
            if handler is None:  # no such method: grpc answers UNIMPLEMENTED
                return None
            self._handlers[method] = self._boundary.wrap(method, handler)
        return self._handlers[method]


class _Counts:
    """The metrics of one method, and what its failures become."""

    def __init__(self, started: Counter, handled: Counter, seconds: Histogram, labels: tuple[str, str, str]) -> None:
        self._labels = labels
        self._handled = handled
        self._started = started.labels(*labels)
        self._ok = handled.labels(*labels, grpc.StatusCode.OK.name)
        self._seconds = seconds.labels(*labels)

    def begin(self) -> float:
        """Count a call that has come; returns the time."""
        self._started.inc()
        return time.perf_counter()

    def end(self, code: grpc.StatusCode, start: float) -> None:
        """Count a call that has ended; before its status is sent, so that who has it finds it counted."""
        (self._ok if code is grpc.StatusCode.OK else self._handled.labels(*self._labels, code.name)).inc()
        self._seconds.observe(time.perf_counter() - start)

    async def failed(self, error: BaseException, start: float, context: Context) -> None:
        """Send the status that an error stands for; returns where it has to be raised on."""
        match error:
            case VitrailError():
                self.end(STATUS_CODES[error.code], start)
                status = to_status(error)
                details = ((STATUS_DETAILS, status.SerializeToString()),)
                await context.abort(STATUS_CODES[error.code], status.message, details)
            case asyncio.CancelledError() | GeneratorExit():  # the latter where a stream's reader has left
                self.end(grpc.StatusCode.CANCELLED, start)
            case grpc.aio.AbortError():
                given: Any = context.code()  # in older versions of grpc its number
                known = isinstance(given, grpc.StatusCode)
                self.end(given if known else STATUS_CODES.get(given, grpc.StatusCode.UNKNOWN), start)
            case Exception():
                self.end(grpc.StatusCode.INTERNAL, start)
                log.error("a call failed", method="/".join(self._labels[1:]), exc_info=error)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log says more")
