"""The machine that the benchmark runs on, which may not be the server's."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

MEASURED_WITH = ("vitrail", "grpcio", "numpy")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def described() -> str:
    return f"{_processor()}, {cores()} cores"


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: version(package) for package in MEASURED_WITH}


def _processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
