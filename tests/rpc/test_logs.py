"""What stands in a log, and how much."""

import json
from collections.abc import Iterator

import pytest
import structlog

from tests.collector import calling
from vitrail.rpc import logs, tracing
from vitrail.rpc.errors import InvalidArgument
from vitrail.v1.process_pb2 import GetLogLevelRequest, SetLogLevelRequest


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Other tests log as they did."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


async def test_the_level_is_changed_while_loggers_are_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of those that have logged before."""
    logs.configure_logs("test", "warning", "json")
    kept = structlog.get_logger()
    service = logs.ProcessService()
    kept.info("before")
    for level in ("debug", "error"):
        await service.SetLogLevel(SetLogLevelRequest(level=level), None)
        assert (await service.GetLogLevel(GetLogLevelRequest(), None)).level == level
        for name in ("debug", "info", "warning", "error"):
            getattr(kept, name)(f"{name} at {level}")
    with pytest.raises(InvalidArgument) as refused:
        await service.SetLogLevel(SetLogLevelRequest(level="loud"), None)
    assert refused.value.field == "level"
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert [event for event in events if event != "the log's level is changed"] == [
        "debug at debug",
        "info at debug",
        "warning at debug",
        "error at debug",
        "error at error",
    ]


def test_a_line_has_the_ids_of_its_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the spans have them; a traceback is text, without what variables held."""
    monkeypatch.setattr(tracing, "_tracer", object())
    logs.configure_logs("test", "info", "json")
    password = "secret"
    with calling(7):
        try:
            raise ValueError("wrong")
        except ValueError:
            structlog.get_logger().exception("failed")
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["trace_id"], line["span_id"]) == (f"{7:032x}", f"{9:016x}")
    assert (line["event"], line["level"], line["process"]) == ("failed", "error", "test")
    assert "ValueError: wrong" in line["exception"]
    assert password not in line["exception"]


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Readable, and without ids where nothing is traced."""
    logs.configure_logs("test", "info", "console")
    structlog.get_logger().info("started", port=1)
    written = capsys.readouterr().err
    assert "[info     ] started" in written
    assert "trace_id" not in written
