"""How fast a trained partition takes rows of the log, beside FAISS; and what it finds once half of all were replaced.

One partition in this process, one thread: `python -m tests.bench.rows`.
"""

import argparse
import asyncio
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.bench.photos import made
from tests.shard.rows import collection
from vitrail.rpc.process import give_memory_back
from vitrail.shard.building import ADD_SLICE, build
from vitrail.shard.index import Floats, Trained, use_one_thread
from vitrail.shard.partition import Partition
from vitrail.shard.wanted import wanted_build
from vitrail.v1.log_pb2 import FollowResponse, Row, Rows

SLOTS = (0, 1024)
MESSAGE = 500
"""Rows of one message."""
K = 10


def messages(ids: Iterable[int], vectors: NDArray[np.float16], first_seq: int) -> list[bytes]:
    """Rows as the log sends them."""
    rows = [
        Row(id=f"r{number}", seq=first_seq + place, vector=vector.tobytes())
        for place, (number, vector) in enumerate(zip(ids, vectors, strict=True))
    ]
    return [
        FollowResponse(rows=Rows(collection_uid=1, rows=rows[start : start + MESSAGE])).SerializeToString()
        for start in range(0, len(rows), MESSAGE)
    ]


def take(partition: Partition, sent: Iterable[bytes]) -> tuple[float, float]:
    """Apply and fold; returns seconds of CPU of each."""
    applying = folding = 0.0
    for message in sent:
        start = time.thread_time()
        partition.apply(FollowResponse.FromString(message).rows.rows)
        applied = time.thread_time()
        while partition.wants_fold:
            partition.fold()
        applying, folding = applying + applied - start, folding + time.thread_time() - applied
    return applying, folding


def live(partition: Partition) -> None:
    """Build whatever is wanted, until nothing is."""
    while wanted := wanted_build(partition):
        built = asyncio.run(build(partition, partition.snapshot(), wanted))
        partition.swap(built)
        shutil.rmtree(built.directory)
        print(f"built: {wanted.why}")
        while partition.tail >= 8:
            partition.fold()


def recall(partition: Partition, queries: Floats) -> float:
    """The mean recall@10 of searches as callers make them, against exact ones."""
    found, true = (partition.search(queries, K, exact=exact).rows for exact in (False, True))
    return float(np.mean([len(set(one) & set(other)) / K for one, other in zip(found, true, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000, help="how many to hold; half as many replace others")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    given = parser.parse_args()
    give_memory_back()
    use_one_thread()
    held = given.vectors
    base, queries = made(given.cache, None, held + held // 2, 1000)
    random = np.random.default_rng(0)
    replaced = random.permutation(held)[: held // 2]
    with TemporaryDirectory(dir=given.cache) as name:
        partition = Partition(Path(name) / "old", collection(base.shape[1]), SLOTS)
        first = held * 3 // 4
        take(partition, messages(range(first), base[:first], 1))
        live(partition)
        rows = np.asarray(base[first:held], np.float32)
        faiss_seconds = min(_add(partition, rows, Path(name) / "copy") for _ in range(3))
        applying, folding = take(partition, messages(range(first, held), base[first:held], first + 1))
        _print_rates(len(rows), faiss_seconds, applying, folding)
        take(partition, messages(map(int, replaced), base[held:], held + 1))
        at_once = recall(partition, queries)
        live(partition)
        lived = recall(partition, queries)
        partition.close()
        fresh = Partition(Path(name) / "fresh", collection(base.shape[1]), SLOTS)
        kept = np.setdiff1d(np.arange(held), replaced)
        ids, vectors = np.append(kept, replaced), np.concatenate([base[kept], base[held : held + len(replaced)]])
        take(fresh, messages(map(int, ids), vectors, 1))
        live(fresh)
        anew = recall(fresh, queries)
        fresh.close()
    table = Table("half of the records replaced", "recall@10", "ratio")
    for label, value in (("a fresh build", anew), ("at once", at_once), ("after its own builds", lived)):
        table.add_row(label, f"{value:.4f}", f"{value / anew:.3f}")
    Console().print(table)


def _add(partition: Partition, rows: Floats, path: Path) -> float:
    """Seconds of CPU in which FAISS adds rows to a copy of the partition's index."""
    trained = partition.view.trained
    assert trained is not None
    trained.save(path)
    copy = Trained.load(path, trained.recipe, "cosine")
    numbers = np.arange(len(rows))
    start = time.thread_time()
    for begin in range(0, len(rows), ADD_SLICE):
        copy.add(rows[begin : begin + ADD_SLICE], numbers[begin : begin + ADD_SLICE])
    return time.thread_time() - start


def _print_rates(rows: int, faiss_seconds: float, applying: float, folding: float) -> None:
    table = Table("adding to a trained partition, one thread", "rows/s", "ratio")
    for label, seconds in (
        ("FAISS's add, the same index", faiss_seconds),
        ("folded: read, converted, added", folding),
        ("applied: parsed, stored, looked up", applying),
        ("applied and folded", applying + folding),
    ):
        table.add_row(label, f"{rows / seconds:,.0f}", f"{faiss_seconds / seconds:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
