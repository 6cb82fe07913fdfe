"""What every server process does first: logs to standard error, metrics on a port, an end with its parent."""

import ctypes
import logging
import os
import signal
import sys

import structlog
from prometheus_client import start_http_server

PARENT = "VITRAIL_PARENT_PID"
"""Set by whoever starts a process that must not outlive it."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def configure_logs(process: str, level: str = "info") -> None:
    """Write one readable line an event to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def serve_metrics(host: str, port: int) -> int:
    """Serve Prometheus text over HTTP from a thread; returns the port."""
    server, _ = start_http_server(port, host)
    return server.server_port


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, SIGKILL included (Linux only)."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we could ask
        os._exit(1)


def child_environment() -> dict[str, str]:
    """The environment for a child that must not outlive this process."""
    return {**os.environ, PARENT: str(os.getpid())}
