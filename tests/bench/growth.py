"""From nothing to a million records in one run, with queries all the while; then what it takes, and a cold start.

Prints as it goes: records, what partitions do, the recall that they report and the one that is measured, the latency
of searches, the memory of shards. Run it as `python -m tests.bench.growth --vectors 1000000`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from tests.bench.photos import made
from tests.e2e.running import Running, eventually, scrape, wait_applied
from tests.e2e.searching import Searching, Seen
from vitrail.client import Client, CollectionStats, SearchResult

NAME = "growth"
BLOCK = 2000
ASKED = 20
"""Queries on which recall is measured at each line."""
K = 10


@dataclass(frozen=True)
class Line:
    """What is known at one moment."""

    seconds: float
    records: int
    doing: str
    recall_reported: float
    recall_measured: float
    p50: float
    p99: float
    anonymous_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=20, help="how often to look")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    base, queries = made(given.cache, None, given.vectors, 2000)
    asked = np.asarray(queries, np.float32)
    with TemporaryDirectory(dir=given.cache) as directory:
        data = Path(directory) / "data"
        running = Running(data, "--shards", "2", "--port", "0", "--metrics-port", "0")
        try:
            lines = list(grow(running, base, asked, given.lines))
        finally:
            running.stop()
        start = cold_start(data)
    slope = [line for line in lines if line.doing == "at rest"]
    if len(slope) == 2:
        more = slope[1].anonymous_mb - slope[0].anonymous_mb
        print(f"anonymous bytes a record from {slope[0].records:,} to {slope[1].records:,} records: ", end="")
        print(f"{1e6 * more / (slope[1].records - slope[0].records):.0f}")
    print(f"cold start: {start}")
    if given.json:
        given.json.write_text(json.dumps({"lines": list(map(asdict, lines)), "cold_start": start}, indent=1))


def grow(running: Running, base: NDArray[np.float16], asked: NDArray[np.float32], looks: int) -> Iterator[Line]:
    """Write all vectors, and look now and then; at a quarter and at the end once everything is at rest."""
    with Client(running.address, timeout=600) as client:
        client.create_collection(NAME, dimension=base.shape[1])
        searching = Searching(running.address, NAME, asked, timeout=30)
        start, looked, due = time.perf_counter(), 0.0, 0
        print(f"{'s':>6} {'records':>9} {'reported':>8} {'measured':>8} {'p50 ms':>7} {'p99 ms':>7} {'MB':>6}  doing")
        try:
            for first in range(0, len(base), BLOCK):
                rows = np.asarray(base[first : first + BLOCK], np.float32)
                ids = [f"r{first + row}" for row in range(len(rows))]
                if errors := client.upsert(NAME, ids=ids, vectors=rows).errors:
                    raise SystemExit(f"refused: {errors[0]}")
                written = first + len(rows)
                resting = written in (len(base) // 4 // BLOCK * BLOCK, len(base))
                if written >= due or resting:
                    due = written + len(base) // looks
                    if resting:
                        eventually(lambda: _at_rest(client.stats(NAME)), 900)
                        time.sleep(3)
                    yield _look(client, searching.since(looked), asked, time.perf_counter() - start, written)
                    looked = time.monotonic()  # leaves out those that waited for the exact ones
        finally:
            searching.stop()
    faults = searching.faults
    print(f"{len(searching.seen):,} searches, {len(faults)} failed or covered less: {faults[:3]}")


def _look(client: Client, seen: list[Seen], asked: NDArray[np.float32], seconds: float, written: int) -> Line:
    p50, p99 = 1000 * np.percentile([each.seconds for each in seen] or [np.nan], [50, 99])
    stats = wait_applied(client, NAME)
    some = asked[np.random.default_rng(written).choice(len(asked), ASKED, replace=False)]
    found, true = (client.search_batch(NAME, vectors=some, top_k=K, exact=exact) for exact in (False, True))
    hits = [
        len({hit.id for hit in a.hits} & {hit.id for hit in b.hits}) / len(b.hits)
        for a, b in zip(found, true, strict=True)
        if isinstance(a, SearchResult) and isinstance(b, SearchResult) and b.hits
    ]
    doing = ", ".join(f"{p.state}{f' ({p.busy})' if p.busy else ''} +{p.tail}" for p in stats.partitions)
    reported = min((p.index.recall or 1.0 for p in stats.partitions if p.index), default=1.0)
    memory = sum(scrape(p.metrics_address)["vitrail_anonymous_bytes"] for p in stats.partitions) / 1e6
    resting = "at rest" if _at_rest(stats) else doing
    line = Line(seconds, written, resting, reported, float(np.mean(hits or [1.0])), p50, p99, memory)
    print(
        f"{line.seconds:6.0f} {line.records:9,} {reported:8.3f} {line.recall_measured:8.3f} {p50:7.1f} {p99:7.1f}"
        f" {memory:6.0f}  {doing}",
        flush=True,
    )
    return line


def _at_rest(stats: CollectionStats) -> bool:
    return all(not p.busy and (p.state == "exact" or p.tail < 8) for p in stats.partitions)


READ = """
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
"""
OPEN = """
partition = Partition(directory, collection, (published.slot_begin, published.slot_end))
assert not partition.rebuilt and partition.view.trained
"""
BEFORE = """
import sys, time
from pathlib import Path
from vitrail.shard import manifest
from vitrail.shard.partition import Partition
from vitrail.v1.collection_pb2 import Collection
directory = Path(sys.argv[1])
published = manifest.read(directory)
collection = Collection(uid=published.collection_uid, dimension=published.dimension, metric=1)
start = time.perf_counter()
"""
AFTER = "print(time.perf_counter() - start)"


def cold_start(data: Path) -> dict[str, float]:
    """Open the partition of the first shard with nothing in the page cache, against reading the same files.

    All but the vectors, which a shard verifies in the background. Medians of five, in turns, in seconds.
    """
    (manifest,) = (data / "shards" / "0-of-2").rglob("manifest.json")
    files = [path for path in manifest.parent.rglob("*") if path.is_file() and path.name != "vectors"]
    times = np.median([[_cold(files, manifest.parent, work) for work in (READ, OPEN)] for _ in range(5)], axis=0)
    size = sum(path.stat().st_size for path in files)
    return {"megabytes": size / 1e6, "read": times[0], "opened": times[1], "ratio": times[1] / times[0]}


def _cold(files: list[Path], directory: Path, work: str) -> float:
    """Seconds of some work in a process of its own, counted after its imports, the files out of the page cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    command = [sys.executable, "-c", BEFORE + work + AFTER, str(directory), *map(str, files)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
