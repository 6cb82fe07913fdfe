"""What each process of the server has used, from the Prometheus metrics that it serves."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from vitrail.client import Client

SECONDS_TO_ANSWER = 10.0
COORDINATOR = "coordinator"

CPU = "process_cpu_seconds_total"
ANONYMOUS = "vitrail_anonymous_bytes"
RESIDENT = "process_resident_memory_bytes"


@dataclass(frozen=True)
class Usage:
    """What one process has used so far; None where it does not tell.

    Attributes:
        cpu_seconds: User and system time.
        memory: Bytes.
        memory_kind: "anonymous", or "resident", which counts what it has mapped of files too.
    """

    cpu_seconds: float | None = None
    memory: int | None = None
    memory_kind: str = ""


def addresses(client: Client, name: str) -> dict[str, str]:
    """Where the metrics of the coordinator and of each shard are, by what the process is."""
    stats = client.stats(name)
    found = {COORDINATOR: stats.metrics_address}
    found |= {f"shard {partition.shard}": partition.metrics_address for partition in stats.partitions}
    host = client.address.rpartition(":")[0]
    return {process: _reachable(address, host) for process, address in found.items()}


def usage(processes: Mapping[str, str]) -> dict[str, Usage]:
    """Ask every process."""
    return {process: read(_scrape(address)) for process, address in processes.items()}


def cpu_used(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, float | None]:
    """CPU seconds of each process between two readings; None where one is missing, or the process was restarted."""
    return {process: _between(before[process].cpu_seconds, after[process].cpu_seconds) for process in after}


def read(text: str) -> Usage:
    """Read the text that a process serves."""
    lines = (line.split(" ") for line in text.splitlines() if not line.startswith("#"))
    samples = {line[0]: float(line[1]) for line in lines if line[0] in (CPU, ANONYMOUS, RESIDENT)}
    kind = "anonymous" if ANONYMOUS in samples else "resident" if RESIDENT in samples else ""
    memory = samples.get(ANONYMOUS, samples.get(RESIDENT))
    return Usage(samples.get(CPU), None if memory is None else int(memory), kind)


def _scrape(address: str) -> str:
    """What a process serves; nothing where it is not reached from here."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS_TO_ANSWER) as response:
            return str(response.read(), "utf-8")
    except (OSError, ValueError):
        return ""


def _reachable(address: str, host: str) -> str:
    """A process that listens everywhere is reached where the coordinator is."""
    listens, _, port = address.rpartition(":")
    return f"{host}:{port}" if listens in ("0.0.0.0", "[::]", "::", "") else address


def _between(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None or after < before else after - before
