"""What traces are sent to: OpenTelemetry's own service over a real socket, which keeps what it is told."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from opentelemetry import context
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

SEND_SECONDS = 0.2
CALLER = 9
"""The id of the caller's span."""


class Told(NamedTuple):
    """A span; ids as hexadecimal digits, times in seconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: float
    end: float
    links: list[str]
    attributes: dict[str, Any]
    failed: bool


class Collector(TraceServiceServicer):
    """Keeps the spans of all processes."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.address = ""

    @property
    def environment(self) -> dict[str, str]:
        """What has a process send its traces here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}",
            "OTEL_BSP_SCHEDULE_DELAY": str(round(1000 * SEND_SECONDS)),
        }

    def of(self, trace: str) -> list[Told]:
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.start)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_told(names["service.name"], span) for span in scope.spans]
        return service_pb2.ExportTraceServiceResponse()


def _told(service: str, span: Any) -> Told:
    return Told(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        [each.span_id.hex() for each in span.links],
        {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes},
        span.status.code == 2,
    )


@contextmanager
def running_collector() -> Iterator[Collector]:
    """One on a free port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def calling(trace: int) -> Iterator[None]:
    """What is called meanwhile is called by a span of this trace."""
    caller = SpanContext(trace, CALLER, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = context.attach(set_span_in_context(NonRecordingSpan(caller)))
    try:
        yield
    finally:
        context.detach(token)
