"""Durable upserts through gRPC, beside the store's own bulk upsert of the same bytes; and how soon they are found.

On both databases, PostgreSQL from a package: `python -m tests.bench.store`.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.e2e.running import Running
from tests.postgres import running_postgres
from vitrail.client import Client
from vitrail.server.database import Database
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection

BATCH = 1000
DIMENSION = 1280
MARK_SECONDS = 0.05
"""Between the single records whose way into searches is timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    given = parser.parse_args()
    vectors = np.random.default_rng(0).normal(size=(given.rows, DIMENSION)).astype(np.float32)
    table = Table(
        "batches of 1,000 vectors, 1,280 dimensions", "rows/s", "ratio", "found after ms: p50", "p99", "records"
    )
    with TemporaryDirectory() as temporary, running_postgres() as postgres:
        directory = Path(temporary)
        places = {
            "SQLite": (str(directory / "alone"), str(directory / "served")),
            "PostgreSQL": (postgres.new_database(), postgres.new_database()),
        }
        for name, (alone, served) in places.items():
            bulk = alone_rate(alone, vectors)
            rate, seconds = served_rate(directory / name, served, vectors)
            p50, p99 = 1000 * np.percentile(seconds, [50, 99])
            table.add_row(f"{name}: the store's own bulk upsert, in process", f"{bulk:,.0f}", "1.000")
            table.add_row(
                f"{name}: upserted durably through gRPC, one caller, two shards that follow",
                f"{rate:,.0f}",
                f"{rate / bulk:.3f}",
                f"{p50:.0f}",
                f"{p99:.0f}",
                f"{len(seconds)}",
            )
    Console().print(table)


def alone_rate(location: str, vectors: NDArray[np.float32]) -> float:
    """Rows a second of the store in this process, one transaction a batch."""
    store = Store(Database(location))
    uid = store.create_collection(Collection(name="c", dimension=DIMENSION)).uid
    batches = [
        [NewRecord(f"r{first + row}", {}, vector=vector.tobytes()) for row, vector in enumerate(part)]
        for first, part in _parts(vectors)
    ]
    start = time.perf_counter()
    for batch in batches:
        store.write([Write(uid, batch)])
    seconds = time.perf_counter() - start
    store.close()
    return len(vectors) / seconds


def served_rate(data: Path, location: str, vectors: NDArray[np.float32]) -> tuple[float, list[float]]:
    """Rows a second through a cluster, and the seconds from an acknowledgement until a search finds the record."""
    running = Running(data, "--shards", "2", "--port", "0", "--metrics-port", "0", "--store", location)
    try:
        with Client(running.address, timeout=60) as client:
            client.create_collection("c", dimension=DIMENSION)
            found: list[float] = []
            ended = threading.Event()
            marking = threading.Thread(target=_mark, args=(running.address, ended, found))
            marking.start()
            start = time.perf_counter()
            for first, part in _parts(vectors):
                client.upsert("c", ids=[f"r{first + row}" for row in range(len(part))], vectors=part)
            seconds = time.perf_counter() - start
            ended.set()
            marking.join()
    finally:
        running.stop()
    return len(vectors) / seconds, found


def _mark(address: str, ended: threading.Event, found: list[float]) -> None:
    random = np.random.default_rng(1)
    with Client(address, timeout=60) as client:
        while not ended.wait(MARK_SECONDS):
            vector = random.normal(size=(1, DIMENSION)).astype(np.float32)
            seq = client.upsert("c", ids=["mark"], vectors=vector).seq
            start = time.perf_counter()
            result = client.search("c", vector=vector[0], top_k=1, min_seq=seq)
            found.append(time.perf_counter() - start)
            assert result.hits[0].id == "mark"


def _parts(vectors: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    return ((first, vectors[first : first + BATCH]) for first in range(0, len(vectors), BATCH))


if __name__ == "__main__":
    main()
