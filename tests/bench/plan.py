"""What `vitrail plan` says of a million records, beside what they take in a real cluster of two shards on PostgreSQL.

Prints Markdown. `python -m tests.bench.plan` takes eight minutes on two idle cores, `--store`, which fills databases
alone, one.
"""

import argparse
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray

from tests.bench.growth import cold_start
from tests.bench.photos import made
from tests.e2e.running import Running
from tests.postgres import running_postgres
from vitrail.cli.bench.ingest import wait_at_rest
from vitrail.cli.bench.machine import described
from vitrail.cli.plan.constants import ID_TEXT_BYTES, LIVE_SHARE, START_SECONDS
from vitrail.cli.plan.planned import Asked, Plan, plan
from vitrail.cli.plan.report import duration, size
from vitrail.cli.plan.sizes import Kind
from vitrail.client import Client
from vitrail.server.database import Database
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Attributes, Metric

NAME, SHARDS, BLOCK = "plan", 2, 2000
STORED_DIMENSIONS, STORED_ROWS = (64, 256, 384, 512, 768, 1024, 1280), 10_000
LOOK_SECONDS = 0.2


@dataclass
class Peaks:
    """The largest that was seen of a shard: its process with those that it started, and its files."""

    data: Path
    processes: list[psutil.Process]
    memory: list[int] = field(default_factory=lambda: SHARDS * [0])
    disk: list[int] = field(default_factory=lambda: SHARDS * [0])

    def look(self) -> None:
        for shard, process in enumerate(self.processes):
            self.memory[shard] = max(self.memory[shard], family(process))
            self.disk[shard] = max(self.disk[shard], on_disk(self.data / "shards" / f"{shard}-of-{SHARDS}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512, help="at most 1,280: so many of their components")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    parser.add_argument("--store", action="store_true", help="fill databases with vectors of some sizes, and end")
    given = parser.parse_args()
    if given.store:
        print_stored()
        return
    base = made(given.cache, None, given.vectors, 2000)[0][:, : given.dimension]
    kind = Kind(base.shape[1], attributes=1, attributes_bytes=len(attributes(0).SerializeToString()))
    planned = plan(Asked(len(base), kind, replicas=1, shards=SHARDS))
    print(f"{len(base):,} vectors of {base.shape[1]} dimensions, a string with each, {SHARDS} shards; {described()}\n")
    print(f"| | planned | taken | ratio |\n|---|{3 * '--:|'}")
    with TemporaryDirectory(dir=given.cache) as directory, running_postgres() as postgres:
        measure(Path(directory) / "data", postgres.new_database(), base, planned)


def measure(data: Path, store: str, base: NDArray[np.float16], planned: Plan) -> None:
    """Fill a cluster, replace so much that it compacts, stop it, and start a shard again from its files and the log."""
    options = ("--shards", str(SHARDS), "--port", "0", "--metrics-port", "0", "--store", store)
    running = Running(data, *options)
    try:
        with Client(running.address, timeout=600) as client:
            client.create_collection(NAME, dimension=base.shape[1])
            processes = [running.children()[f"shard-{shard}"] for shard in range(SHARDS)]
            with watched(Peaks(data, processes)) as peaks:
                write(client, base, range(len(base)))
                wait_at_rest(client, NAME)
                time.sleep(5)  # freed memory is given back
                line("memory of a shard at rest", planned.memory, max(map(family, processes)))
                line("disk of a shard at rest", planned.disk, max(disks(client)))
                line("PostgreSQL", planned.store, stored(store))
                # Somewhat more than what is compacted at, since slots are not all alike.
                write(client, base, range(round(1.02 * len(base) * (1 / LIVE_SHARE - 1))))
                wait_at_rest(client, NAME)
            line("memory while it builds, at most", planned.most_memory, max(peaks.memory))
            line("disk while it compacts, at most", planned.most_disk, max(peaks.disk))
    finally:
        running.stop()
    opened = cold_start(data)["opened"]
    line("opened from its files, cold", planned.opening_seconds - START_SECONDS, opened, duration)
    shutil.rmtree(data / "shards" / f"0-of-{SHARDS}")
    start = time.monotonic()
    running = Running(data, *options)
    try:
        with Client(running.address, timeout=600) as client:
            seconds = wait_at_rest(client, NAME) - start
    finally:
        running.stop()
    line("a shard from the log, the other one open", planned.following_seconds + START_SECONDS, seconds, duration)


def write(client: Client, base: NDArray[np.float16], rows: range) -> None:
    for first in range(rows.start, rows.stop, BLOCK):
        part = range(first, min(first + BLOCK, rows.stop))
        vectors = np.asarray(base[part.start : part.stop], np.float32)
        vectors[~vectors.any(axis=1), 0] = 1  # which of 1,280 has no direction in these
        ids = [f"{row:0{ID_TEXT_BYTES}}" for row in part]
        typed = [{name: value.string_value for name, value in attributes(row).fields.items()} for row in part]
        if errors := client.upsert(NAME, ids=ids, vectors=vectors, attributes=typed).errors:
            raise SystemExit(f"refused: {errors[0]}")


def attributes(row: int) -> Attributes:
    made = Attributes()
    made.fields["label"].string_value = f"kind {row % 1000:03}"
    return made


@contextmanager
def watched(peaks: Peaks) -> Iterator[Peaks]:
    """Peaks that are looked at again and again."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            peaks.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def family(process: psutil.Process) -> int:
    """Anonymous bytes of a process and of those that it started."""
    return sum(map(anonymous, [process, *process.children(recursive=True)]))


def anonymous(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def on_disk(directory: Path) -> int:
    """Bytes that files take, not counting what they leave out; some may go meanwhile."""

    def blocks() -> Iterator[int]:
        for path in directory.rglob("*"):
            try:
                yield 512 * path.stat().st_blocks
            except FileNotFoundError:
                continue

    return sum(blocks())


def disks(client: Client) -> list[int]:
    """Bytes of the files of each shard, by its own account."""
    return [partition.index.disk_bytes for partition in client.stats(NAME).partitions if partition.index]


def stored(url: str) -> int:
    """Bytes that records take in a database, with their indexes."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_total_relation_size('records')").fetchone()
        assert row is not None
        return int(row[0])


def line(what: str, predicted: float, taken: float, shown: Callable[[float], str] = size) -> None:
    print(f"| {what} | {shown(predicted)} | {shown(taken)} | {predicted / taken:.2f} |", flush=True)


def print_stored() -> None:
    """Bytes of a record in PostgreSQL, by how large its vector is."""
    print("| dimension, bytes a record | planned | taken | ratio |\n|--:|--:|--:|--:|")
    with running_postgres() as postgres:
        for dimension in STORED_DIMENSIONS:
            url = postgres.new_database()
            fill(url, dimension)
            taken, predicted = stored(url) / STORED_ROWS, Kind(dimension).stored_bytes
            print(f"| {dimension:,} | {predicted:,.0f} | {taken:,.0f} | {predicted / taken:.2f} |", flush=True)


def fill(url: str, dimension: int) -> None:
    store = Store(Database(url))
    one = Collection(name=NAME, dimension=dimension, metric=Metric.METRIC_COSINE, train_at=STORED_ROWS)
    uid = store.create_collection(one).uid
    chance = np.random.default_rng(0)
    for first in range(0, STORED_ROWS, BLOCK):
        vectors = chance.normal(size=(BLOCK, dimension)).astype(np.float32)
        records = [
            NewRecord(f"{first + row:0{ID_TEXT_BYTES}}", {}, vector=vector.tobytes())
            for row, vector in enumerate(vectors)
        ]
        store.write([Write(uid, records)])
    store.close()


if __name__ == "__main__":
    main()
