"""How fast a new shard builds from the log of a real store, through gRPC, beside FAISS's `add` of the same index.

`python -m tests.bench.following`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.bench.photos import made
from tests.e2e.parts import Parts, Place, Process
from tests.postgres import running_postgres
from vitrail.cli.bench.machine import described
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database
from vitrail.server.log import MAX_PAGE_ROWS, PAGE_BYTES
from vitrail.server.store import Store
from vitrail.server.validate import DEFAULT_TRAIN_AT
from vitrail.server.writing import NewRecord, Write
from vitrail.shard.building import ADD_SLICE
from vitrail.shard.index import Trained, choose_recipe, training_rows, use_one_thread
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.shard_pb2 import GetStatusRequest, PartitionStatus
from vitrail.v1.shard_pb2_grpc import ShardServiceStub
from vitrail.v1.types_pb2 import Metric

BLOCK = 1000
SHORT_TAIL = 512
"""Rows that a partition folds later: at once they would make searches wait."""
POLL_SECONDS = 0.02
PATIENCE = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    given = parser.parse_args()
    base, _ = made(given.cache, None, given.vectors, 2000)
    trained, added = alone(base)
    title = f"{len(base):,} vectors, {base.shape[1]:,} dimensions, one shard; {described()}"
    table = Table("", "s", "rows/s", "of FAISS's add", title=title, title_justify="left")

    def add(what: str, seconds: float) -> None:
        table.add_row(what, f"{seconds:.1f}", f"{len(base) / seconds:,.0f}", f"{added / seconds:.2f}")

    add("FAISS's add, the same index, one thread", added)
    add("FAISS's train and add", trained + added)
    with TemporaryDirectory(dir=given.cache) as directory, running_postgres() as postgres:
        for name, location in (("SQLite", f"{directory}/store"), ("PostgreSQL", postgres.new_database())):
            add(f"{name}: the log read in process, page by page", filled(location, base))
            applied, at_rest = followed(Path(directory) / name, location, len(base))
            add(f"{name}: a new shard has applied all, and can be searched", applied)
            add(f"{name}: a new shard has all in its trained index", at_rest)
    Console(width=120).print(table)


def alone(base: NDArray[np.float16]) -> tuple[float, float]:
    """Seconds in which FAISS trains, and adds all vectors, on one thread of this process."""
    use_one_thread()
    recipe = choose_recipe(len(base), base.shape[1])
    chosen = np.random.default_rng(0).choice(len(base), min(len(base), training_rows(recipe)), replace=False)
    sample = np.asarray(base[np.sort(chosen)], np.float32)
    start = time.perf_counter()
    index = Trained.train(sample, recipe, "cosine")
    trained = time.perf_counter() - start
    added = 0.0
    for first in range(0, len(base), ADD_SLICE):
        rows = np.asarray(base[first : first + ADD_SLICE], np.float32)
        start = time.perf_counter()
        index.add(rows, np.arange(first, first + len(rows)))
        added += time.perf_counter() - start
    return trained, added


def filled(location: str, base: NDArray[np.float16]) -> float:
    """Fill a store; returns the seconds in which its whole log is read."""
    store = Store(Database(location))
    cosine = Metric.METRIC_COSINE
    uid = store.create_collection(
        Collection(name="c", dimension=base.shape[1], metric=cosine, train_at=DEFAULT_TRAIN_AT)
    ).uid
    for first in range(0, len(base), BLOCK):
        rows = np.asarray(base[first : first + BLOCK], np.float32)
        store.write(
            [Write(uid, [NewRecord(str(first + row), {}, vector=rows[row].tobytes()) for row in range(len(rows))])]
        )
    limit = min(MAX_PAGE_ROWS, max(1, PAGE_BYTES // (4 * base.shape[1])))
    start, after = time.perf_counter(), 0
    while (page := store.page(uid, (0, SLOTS), after, limit)) and page.rows:
        after = page.rows[-1].seq
    seconds = time.perf_counter() - start
    store.close()
    return seconds


def followed(directory: Path, location: str, rows: int) -> tuple[float, float]:
    """Seconds from when a new shard is there until it has applied all, and until all is in its trained index."""
    with Parts(directory, location, [1]) as parts:
        parts.start_coordinator()
        parts.start_shard(Place(0, 1))
        with partition_of(parts.shards[Place(0, 1)]) as look:
            start = _when(lambda: look() is not None)
            applied = _when(lambda: _records(look()) == rows)
            at_rest = _when(lambda: _is_at_rest(look()))
    return applied - start, at_rest - start


@contextmanager
def partition_of(process: Process) -> Iterator[Callable[[], PartitionStatus | None]]:
    """What a shard says of its only partition; None while it does not answer."""
    # It is asked from the first tenth of a second on: left alone, gRPC would come back after a whole one.
    with grpc.insecure_channel(process.address, options=CLIENT_OPTIONS) as channel:
        stub = ShardServiceStub(channel)

        def look() -> PartitionStatus | None:
            try:
                status = stub.GetStatus(GetStatusRequest(), timeout=10)
            except grpc.RpcError:
                return None
            return status.partitions[0] if status.partitions else PartitionStatus()

        yield look


def _when(condition: Callable[[], bool]) -> float:
    """The moment at which it is true."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(POLL_SECONDS)
    return time.monotonic()


def _records(partition: PartitionStatus | None) -> int:
    return partition.records if partition and partition.applied.seq else 0


def _is_at_rest(partition: PartitionStatus | None) -> bool:
    return partition is not None and partition.state == "trained" and not partition.busy and partition.tail < SHORT_TAIL


if __name__ == "__main__":
    main()
