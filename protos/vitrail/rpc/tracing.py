"""Traces by OpenTelemetry, where somebody wants them; else nothing is loaded, and a span costs one comparison.

They are wanted where `OTEL_EXPORTER_OTLP_ENDPOINT` says whereto; the other variables of OpenTelemetry hold, too, as
`OTEL_TRACES_SAMPLER`. A call goes on in the trace that its caller names (W3C Trace Context, in the metadata). What
waits in a queue goes in a batch with others: the batch is a span in the trace of the first of them, and linked to
those of the others in both directions. Spans carry counts and names of collections: never images, vectors, or what
records hold.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

    Trace: TypeAlias = SpanContext | None
else:
    Trace = object

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Value: TypeAlias = str | int | float | bool

ENDPOINTS = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PARENT = "traceparent"
# What coordinators and shards say to each other many times a second is told only as a part of a caller's trace.
INTERNAL = frozenset({"ShardService", "LogService", "ProcessService", "Health", "ServerReflection"})

_nothing = contextlib.nullcontext()
_tracer: "Tracer | None" = None


def start(service: str) -> None:
    """Send traces from now on, where somebody wants them.

    Args:
        service: The name of the process, unless `OTEL_SERVICE_NAME` says another.

    Raises:
        ValueError: They are wanted, and OpenTelemetry is not installed.
    """
    global _tracer
    if not any(map(os.environ.get, ENDPOINTS)):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(f"traces are wanted ({ENDPOINTS[0]}): pip install 'vitrail[tracing]'") from error
    name = os.environ.get("OTEL_SERVICE_NAME", f"vitrail-{service}")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))  # flushed as the process ends
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("vitrail")


def call(service: str, method: str, metadata: Metadata | None) -> AbstractContextManager[object]:
    """The span of a call that a server answers, in the trace of its caller."""
    if _tracer is None:
        return _nothing
    parent = next((value for key, value in metadata or () if key == PARENT), None)
    if parent is None and service.rpartition(".")[2] in INTERNAL:
        return _nothing
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    caller = TraceContextTextMapPropagator().extract({PARENT: parent} if isinstance(parent, str) else {})
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    return _spanning(method, caller, SpanKind.SERVER, attributes)


def span(name: str, **attributes: Value) -> AbstractContextManager[object]:
    """A step of what is being done; nothing where no call is traced."""
    if context() is None:
        return _nothing
    return _spanning(name, None, None, attributes)


def batch(name: str, of: "Sequence[SpanContext]", **attributes: Value) -> AbstractContextManager[object]:
    """What is done at once for all who wait, whose spans are given; nothing where none of them is traced."""
    if not of:
        return _nothing
    from opentelemetry.trace import Link, NonRecordingSpan, set_span_in_context

    parent = set_span_in_context(NonRecordingSpan(of[0]))
    return _spanning(name, parent, None, attributes, [Link(each) for each in of[1:]])


def context() -> Trace:
    """Which span this is a part of; None where nothing is traced, or this is not sampled."""
    if _tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    found = get_current_span().get_span_context()
    return found if found.trace_flags.sampled else None


def tell(**attributes: Value) -> None:
    """Say more of the span that this is a part of."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(attributes)


def link(other: Trace) -> None:
    """Say that another span belongs to the one that this is a part of."""
    if _tracer is not None and other is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().add_link(other)


def metadata() -> list[tuple[str, str]] | None:
    """What carries the trace to whoever is called now; also where a caller's own program traces itself."""
    if _tracer is None and "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return [(PARENT, carrier[PARENT])] if PARENT in carrier else None


@contextlib.contextmanager
def _spanning(
    name: str, parent: Any, kind: Any, attributes: dict[str, Any], links: Sequence[Any] = ()
) -> "Iterator[Span]":
    from opentelemetry.trace import SpanKind, Status, StatusCode

    assert _tracer is not None
    with _tracer.start_as_current_span(
        name,
        parent,
        kind or SpanKind.INTERNAL,
        attributes,
        links,
        record_exception=False,  # an error's words may name records
        set_status_on_exception=False,
    ) as found:
        try:
            yield found
        except asyncio.CancelledError:  # no fault: another replica was faster, or the caller left
            found.set_attribute("cancelled", True)
            raise
        except BaseException as error:
            found.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
