"""The log of a process: a line an event on standard error, with the ids of its trace, louder or quieter on request."""

import logging
import sys
from typing import Literal, TypeAlias

import structlog
from structlog.typing import EventDict, Processor

from vitrail.rpc import tracing
from vitrail.rpc.errors import InvalidArgument
from vitrail.v1.process_pb2 import (
    GetLogLevelRequest,
    GetLogLevelResponse,
    SetLogLevelRequest,
    SetLogLevelResponse,
)
from vitrail.v1.process_pb2_grpc import ProcessServiceServicer

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["console", "json"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

log = structlog.get_logger()
_level: Level = "info"


def configure_logs(process: str, level: Level = "info", form: Format = "console") -> None:
    """Write to standard error, for people or for programs."""
    global _level
    _level = level
    for_people: list[Processor] = [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
    # Tracebacks as text: as data they would hold local variables, such as what callers sent.
    for_programs: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            _wanted,
            structlog.contextvars.merge_contextvars,
            _with_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *(for_programs if form == "json" else for_people),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),  # loggers are kept: `_wanted` looks anew
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


class ProcessService(ProcessServiceServicer):
    """Changes the level while the process runs."""

    async def GetLogLevel(self, request: GetLogLevelRequest, context: object) -> GetLogLevelResponse:  # noqa: N802
        return GetLogLevelResponse(level=_level)

    async def SetLogLevel(self, request: SetLogLevelRequest, context: object) -> SetLogLevelResponse:  # noqa: N802
        global _level
        found = next((level for level in LEVELS if level == request.level), None)
        if found is None:
            raise InvalidArgument(f"must be one of {', '.join(LEVELS)}", field="level")
        log.warning("the log's level is changed", before=_level, to=found)
        _level = found
        return SetLogLevelResponse()


def _wanted(_: object, method: str, event: EventDict) -> EventDict:
    if LEVELS.index(_of(method)) < LEVELS.index(_level):
        raise structlog.DropEvent
    return event


def _of(method: str) -> Level:
    """`exception`, `critical` and whatever else there is count as errors."""
    return next((level for level in LEVELS if level == method), "error")


def _with_trace(_: object, __: str, event: EventDict) -> EventDict:
    found = tracing.context()
    return {**event, "trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"} if found else event
