"""Spans of what is done together, of what fails, and none where nobody wants them."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from vitrail.rpc import tracing
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import NotFound
from vitrail.server.batching import Batcher, Ticket


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What ended spans are in; they are wanted."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return found


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def ids(spans: Sequence[ReadableSpan]) -> list[int]:
    return [span.context.span_id for span in spans if span.context]


async def test_a_batch_is_linked_to_all_whom_it_answers(exporter: InMemorySpanExporter) -> None:
    """It is a part of the first one's trace; the others have a link to it, and it has one to each."""

    async def process(tickets: Sequence[Ticket[int, int]]) -> None:
        with tracing.span("work"):
            for ticket in tickets:
                ticket.answer(ticket.item)

    async def asked(item: int) -> int:
        with tracing.call("vitrail.v1.SearchService", f"Search {item}", None):
            return await batcher.submit(item, Deadline.after(10))

    batcher: Batcher[int, int] = Batcher("search", process, limit=10, capacity=10)
    calls = [asyncio.create_task(asked(item)) for item in range(3)]
    await asyncio.sleep(0)
    running = asyncio.create_task(batcher.run())
    assert await asyncio.gather(*calls) == [0, 1, 2]
    running.cancel()
    waits, [batch], [work] = (named(exporter, name) for name in ("search", "search batch", "work"))
    waits.sort(key=lambda span: span.start_time or 0)
    assert [span.parent and span.parent.span_id for span in (work, batch)] == ids([batch, waits[0]])
    assert linked(batch) == ids(waits[1:])
    assert [linked(span) for span in waits] == [[], ids([batch]), ids([batch])]
    assert len({span.context.trace_id for span in waits if span.context}) == 3
    assert batch.attributes == {"items": 3}


@pytest.mark.parametrize(("sampled", "batches"), [("001", 1), ("000", 0)])
async def test_a_batch_is_a_part_of_a_trace_that_is_kept(
    sampled: str, batches: int, exporter: InMemorySpanExporter
) -> None:
    """Whoever is first: what is not sampled would take the steps of all others with it."""

    async def process(tickets: Sequence[Ticket[int, int]]) -> None:
        for ticket in tickets:
            ticket.answer(ticket.item)

    async def asked(item: int) -> int:
        metadata = [("traceparent", f"00-{item + 1:032x}-{9:016x}-0{sampled[item]}")]
        with tracing.call("vitrail.v1.SearchService", "Search", metadata):
            return await batcher.submit(item, Deadline.after(10))

    batcher: Batcher[int, int] = Batcher("search", process, limit=10, capacity=10)
    calls = [asyncio.create_task(asked(item)) for item in range(3)]
    await asyncio.sleep(0)
    running = asyncio.create_task(batcher.run())
    await asyncio.gather(*calls)
    running.cancel()
    found = named(exporter, "search batch")
    assert [span.context.trace_id for span in found if span.context] == [3] * batches
    assert [linked(span) for span in (*found, *named(exporter, "search"))] == [[], []][: 2 * batches]


async def test_who_is_left_has_not_failed(exporter: InMemorySpanExporter) -> None:
    """A slower replica is cancelled, which is no error of its own."""

    async def slow() -> None:
        with tracing.call("vitrail.v1.SearchService", "Search", None):
            await asyncio.Event().wait()

    task = asyncio.create_task(slow())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    [span] = exporter.get_finished_spans()
    assert span.status.status_code == StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["cancelled"] is True


def test_what_fails_says_so_without_its_words(exporter: InMemorySpanExporter) -> None:
    """An error's message may name a record."""
    with pytest.raises(NotFound), tracing.call("vitrail.v1.SearchService", "Search", None):
        raise NotFound("no record 'secret'")
    [span] = exporter.get_finished_spans()
    assert span.status.status_code == StatusCode.ERROR
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(
    ("service", "metadata", "parents"),
    [
        ("vitrail.v1.SearchService", [("traceparent", f"00-{7:032x}-{9:016x}-01")], [9]),
        ("vitrail.v1.SearchService", [("traceparent", "nonsense")], [None]),
        ("vitrail.v1.SearchService", [("user-agent", "x")], [None]),
        ("vitrail.v1.ShardService", [("traceparent", f"00-{7:032x}-{9:016x}-01")], [9]),
        ("vitrail.v1.ShardService", [], []),
        ("grpc.health.v1.Health", None, []),
    ],
)
def test_whose_calls_are_traced(
    service: str, metadata: list[tuple[str, str]] | None, parents: list[int | None], exporter: InMemorySpanExporter
) -> None:
    """In the trace that is named; what processes say to each other only as a part of one."""
    with tracing.call(service, "Any", metadata), tracing.span("step"):
        pass
    found = [span for span in exporter.get_finished_spans() if span.name == "Any"]
    assert [span.parent and span.parent.span_id for span in found] == parents
    assert len(named(exporter, "step")) == len(parents)


def test_nothing_is_loaded_where_nobody_wants_traces() -> None:
    """Not even where OpenTelemetry is installed."""
    code = (
        "import sys, vitrail.rpc.tracing as tracing, vitrail.client; tracing.start('test');"
        "assert tracing.metadata() is None and tracing.context() is None;"
        "assert tracing.span('a') is tracing.batch('b', []) is tracing.call('c', 'd', None);"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_traces_without_opentelemetry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ValueError, match=r"pip install 'vitrail\[tracing\]'"):
        tracing.start("test")
