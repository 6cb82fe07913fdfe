"""What every server process does first: metrics on a port, memory given back to the system."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from prometheus_client import Gauge, disable_created_metrics, start_http_server

from vitrail.rpc.protocol import PROTOCOL, VERSION

PARENT = "VITRAIL_PARENT_PID"
"""Set by whoever starts a process that must not outlive it."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # malloc.h

# Of version 2, and of version 1.
CGROUP_LIMITS = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]

ANONYMOUS = Gauge("vitrail_anonymous_bytes", "Memory of the process that no file backs (Linux).")
MEMORY = Gauge("vitrail_memory_limit_bytes", "Memory that the process may take (Linux).")
BUILD = Gauge("vitrail_build_info", "Always 1; what runs stands in the labels.", ["version", "protocol"])


def serve_metrics(host: str, port: int) -> int:
    """Serve Prometheus text over HTTP from a thread; returns the port."""
    disable_created_metrics()  # when each series began: as many series again, which nobody asks for
    ANONYMOUS.set_function(anonymous_bytes)
    MEMORY.set(memory_limit())
    BUILD.labels(VERSION, PROTOCOL).set(1)
    server, _ = start_http_server(port, host)
    return server.server_port


def give_memory_back(pieces: int = 1 << 20, free: int = 1 << 20) -> None:
    """Have malloc return what is freed (glibc only).

    Left alone it keeps what messages of some megabytes took, in an arena for each thread: a shard kept 1,500 bytes
    for each record that it had been sent.

    Args:
        pieces: Those of so many bytes and more are taken from the system anew each time; at most 32 MiB.
        free: So many bytes may lie free at the end of an arena.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_ARENA_MAX, 2)
        mallopt(M_MMAP_THRESHOLD, pieces)
        mallopt(M_TRIM_THRESHOLD, free)


def keep_memory() -> None:
    """Have malloc keep all that is freed, whatever its size, for the next of its kind (glibc only).

    A model that is trained makes the same layers anew in each step, of up to a hundred megabytes. Where their pages
    came from the system each time, EfficientNet-Lite0 learned from 25 photos/s instead of 34.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Return what lies free between what is in use, too (glibc only): some milliseconds for a few hundred megabytes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def collect_less_garbage() -> None:
    """Collect cyclic garbage less often, and never look at what was there at the start.

    A call makes some hundred objects that live until its answer, so that Python's default of 700 has it look through
    those of all calls in flight over and over.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def share_the_interpreter() -> None:
    """Have threads take turns more often than every 5 ms, Python's default.

    A search passes from thread to thread some four times, and would wait so long each time while another one writes.
    """
    sys.setswitchinterval(0.0005)


def anonymous_bytes() -> float:
    """Memory of this process that no file backs; 0 where nobody says (not on Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024.0 * int(line.split()[1])
    return 0.0


def memory_limit() -> float:
    """Bytes that this process may take: what its cgroup says, at most all there are; 0 where nobody says."""
    limits = []
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max"
            limits.append(float(file.read_text()))
    with contextlib.suppress(OSError, ValueError):
        limits.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return min(limits, default=0.0)


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
