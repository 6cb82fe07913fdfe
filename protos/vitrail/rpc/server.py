"""A gRPC server's life, the same for every process: start, serve, drain.

Every server has health, reflection, the standard `grpc_server_*` metrics, and one place where errors of the
domain become status codes.
"""

import asyncio
import contextlib
import inspect
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from vitrail.rpc.channel import OPTIONS, STATUS_DETAILS
from vitrail.rpc.errors import VitrailError, to_status

log = structlog.get_logger()

if TYPE_CHECKING:  # only the stubs of these are generic
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Context = grpc.aio.ServicerContext

STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Server:
    """A server on one address. `add` services, then `start`, `wait_for_signal`, `drain`."""

    def __init__(
        self, host: str, port: int, *, reuse_port: bool = False, registry: CollectorRegistry = REGISTRY
    ) -> None:
        options = [*OPTIONS, ("grpc.so_reuseport", int(reuse_port))]
        self._server = grpc.aio.server(interceptors=[Boundary(registry)], options=options)
        self._health = health.aio.HealthServicer()
        self._names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        self._host, self._port = host, port
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, full_name: str) -> None:
        """Add one service by the function that grpc generated for it."""
        register(servicer, self._server)
        self._names.append(full_name)

    async def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            OSError: The address cannot be bound.
        """
        reflection.enable_server_reflection(self._names, self._server)
        try:
            port = self._server.add_insecure_port(f"{self._host}:{self._port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._host}:{self._port}: {error}") from error
        await self._server.start()
        return port

    async def set_serving(self, serving: bool) -> None:
        """Say to health checks whether this server wants traffic."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let those in flight finish, and cut off what takes longer than `seconds`."""
        await self._health.enter_graceful_shutdown()
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


class Boundary(grpc.aio.ServerInterceptor):
    """Where calls enter and leave: counted, timed, and errors of the domain turned into status codes."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        self._wrapped: dict[str, Handler] = {}
        # Looked up once a method: finding a metric by its labels takes longer than counting.
        self._of_method: dict[tuple[str, str, str], tuple[Counter, Counter, Histogram]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # no such method: grpc answers UNIMPLEMENTED
                return handler
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        kind = (
            ("client_stream" if handler.request_streaming else "unary")
            if not handler.response_streaming
            else ("bidi_stream" if handler.request_streaming else "server_stream")
        )
        _, service, name = method.split("/")
        labels = (kind, service, name)
        self._of_method[labels] = (
            self._started.labels(*labels),
            self._handled.labels(*labels, grpc.StatusCode.OK.name),
            self._seconds.labels(*labels),
        )
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def answer(request: Any, context: Context) -> Any:
            async with self._observed(labels, context):
                return await inner(request, context)

        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._observed(labels, context):
                responses = inner(request, context)
                if inspect.isawaitable(responses):  # it writes to the context, as that of health checks does
                    await responses
                    return
                async for response in responses:
                    yield response

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

    @contextlib.asynccontextmanager
    async def _observed(self, labels: tuple[str, str, str], context: Context) -> AsyncIterator[None]:
        started, ok, seconds = self._of_method[labels]
        started.inc()
        start = time.perf_counter()

        def count(code: grpc.StatusCode) -> grpc.StatusCode:
            """Count a call that has ended; before its status is sent, so that who has it finds it counted."""
            (ok if code is grpc.StatusCode.OK else self._handled.labels(*labels, code.name)).inc()
            seconds.observe(time.perf_counter() - start)
            return code

        try:
            yield
        except VitrailError as error:
            status = to_status(error)
            details = ((STATUS_DETAILS, status.SerializeToString()),)
            await context.abort(count(STATUS_CODES[error.code]), status.message, details)
        except (asyncio.CancelledError, GeneratorExit):  # the latter where a stream's reader has left
            count(grpc.StatusCode.CANCELLED)
            raise
        except grpc.aio.AbortError:
            given: Any = context.code()  # in older versions of grpc its number
            count(given if isinstance(given, grpc.StatusCode) else STATUS_CODES.get(given, grpc.StatusCode.UNKNOWN))
            raise
        except Exception:
            log.exception("a call failed", method=f"{labels[1]}/{labels[2]}")
            await context.abort(count(grpc.StatusCode.INTERNAL), "internal error; the server's log says more")
        else:
            count(grpc.StatusCode.OK)
