"""What the dashboards show of a real cluster: callers, faults, and a Prometheus that scrapes it by the chart's rules.

Fails where a query of the dashboards has no data, or where the alert that a shard is missing does not fire and end:
`python -m tests.deploy.watching --out docs`.
"""

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray

from tests.deploy.panels import Mark, ask_all, draw
from tests.deploy.prometheus import Pod, Prometheus, running_prometheus
from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running, eventually, wait_trained
from vitrail.cli.bench.machine import described
from vitrail.client import Client, CollectionStats, Record, VitrailError

SHARDS, REPLICAS = 2, 2
ROWS, DIMENSION, CLUSTERS = 20_000, 64, 200
CALM, SLOW, FLOODS = 30.0, 30.0, 20.0
"""Seconds before, between and after faults; that one replica is slow; that photos flood in."""
STOPPED, GOING = 0.15, 0.05
"""Seconds, in turns, of the one that is slow."""
ALERT_SECONDS = 120.0
FLOODING, QUEUE = 24, 8
"""Callers of the flood, and how much may wait in a queue."""
SEARCH_PAUSE, WRITE_PAUSE, PHOTO_PAUSE = 0.03, 0.2, 1.0
RATES_OVER = "10s"

Vectors = NDArray[np.float32]
Call = Callable[[Client, int], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pictures go")
    out = parser.parse_args().out
    os.environ["VITRAIL_QUEUE"] = str(QUEUE)
    options = ("--shards", str(SHARDS), "--replicas", str(REPLICAS), "--port", "0", "--metrics-port", "0")
    with TemporaryDirectory() as directory:
        cluster = Running(Path(directory) / "data", *options)
        try:
            watch(cluster, Path(directory) / "prometheus", out)
        finally:
            cluster.stop()


def watch(cluster: Running, directory: Path, out: Path) -> None:
    """Have callers come and faults happen, and draw what Prometheus saw."""
    rows = clustered()
    with Client(cluster.address, timeout=60) as client:
        fill(client, rows)
        stats = wait_trained(client, "vectors")
    with running_prometheus(directory, pods(stats)) as prometheus, calling(cluster.address, rows):
        eventually(lambda: all(prometheus.up().values()))
        begin = time.time()
        time.sleep(CALM)
        marks = faults(cluster, stats, prometheus)
        time.sleep(CALM)
        answers = ask_all(prometheus.query_range, begin, time.time(), rates_over=RATES_OVER)
    happened = "; ".join(f"{mark.begin - begin:.0f} to {mark.end - begin:.0f} s: {mark.what}" for mark in marks)
    title = f"{SHARDS} shards of {REPLICAS} replicas on {described()}\n{happened}"
    half = next(number for number, each in enumerate(answers) if each.panel.row == "Is it right?")
    draw(answers[:half], out / "watching-1.png", title, begin, marks)
    draw(answers[half:], out / "watching-2.png", title, begin, marks)


def clustered() -> Vectors:
    """Vectors that lie in clusters, as those of photos do."""
    random = np.random.default_rng(7)
    centres = random.standard_normal((CLUSTERS, DIMENSION))
    spread = 0.6 * random.standard_normal((ROWS, DIMENSION))
    return (centres[random.integers(CLUSTERS, size=ROWS)] + spread).astype(np.float32)


def fill(client: Client, rows: Vectors) -> None:
    client.create_collection("photos")
    client.create_collection("vectors", dimension=DIMENSION, train_at=5000)
    for first in range(0, ROWS, 1000):
        ids = [str(row) for row in range(first, first + 1000)]
        client.upsert("vectors", ids=ids, vectors=rows[first : first + 1000])


def pods(stats: CollectionStats) -> list[Pod]:
    """The processes of the cluster as the chart would name them."""
    found = [Pod("coordinator-0", stats.metrics_address, "coordinator")]
    for shard in range(SHARDS):
        addresses = [each.metrics_address for each in stats.partitions if each.shard == shard]
        found += [
            Pod(f"shard-{shard}-{replica}", address, "shard", str(SHARDS), str(shard))
            for replica, address in enumerate(addresses)
        ]
    return found


def faults(cluster: Running, stats: CollectionStats, prometheus: Prometheus) -> list[Mark]:
    """What happens to the cluster, one thing after another."""
    marks: list[Mark] = []
    with happening(marks, "a replica of shard 1 is slow"):
        until = time.monotonic() + SLOW
        while time.monotonic() < until:
            with standing(cluster, stats, 1, 1):
                time.sleep(STOPPED)
            time.sleep(GOING)
    time.sleep(CALM)
    with happening(marks, "shard 0 stands still until its alert fires"), standing(cluster, stats, 0, REPLICAS):
        eventually(lambda: "VitrailShardMissing" in prometheus.firing(), ALERT_SECONDS)
        time.sleep(10)
    eventually(lambda: "VitrailShardMissing" not in prometheus.firing())
    time.sleep(CALM)
    with happening(marks, "photos flood in"), flooding(cluster.address):
        time.sleep(FLOODS)
    return marks


@contextmanager
def happening(marks: list[Mark], what: str) -> Iterator[None]:
    begin = time.time()
    yield
    marks.append(Mark(begin, time.time(), what))


@contextmanager
def standing(cluster: Running, stats: CollectionStats, shard: int, replicas: int) -> Iterator[None]:
    """So many processes of a shard stand still, as one does whose node hangs."""
    ports = [each.address.rpartition(":")[2] for each in stats.partitions if each.shard == shard][:replicas]
    processes = [process for process in cluster.shards() if _port(process) in ports]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@contextmanager
def calling(address: str, rows: Vectors) -> Iterator[None]:
    """Callers who search, write vectors and write photos until the block ends."""
    photos = [jpeg(photo) for _, photo in tiles()]

    def search(client: Client, number: int) -> None:
        client.search("vectors", vector=rows[7 * number % ROWS])

    def write(client: Client, number: int) -> None:
        first = 10 * number % (ROWS - 10)
        ids = [str(row) for row in range(first, first + 10)]
        client.upsert("vectors", ids=ids, vectors=rows[first : first + 10])

    def send(client: Client, number: int) -> None:
        photo = photos[number % len(photos)]
        client.upsert("photos", [Record(str(number), photo)])
        client.search("photos", image=photo)

    callers: list[tuple[Call, float]] = [
        (search, SEARCH_PAUSE),
        (search, SEARCH_PAUSE),
        (write, WRITE_PAUSE),
        (send, PHOTO_PAUSE),
    ]
    with _calling(address, callers):
        yield


@contextmanager
def flooding(address: str) -> Iterator[None]:
    """Many who search by photos as fast as they can."""
    photo = jpeg(next(tiles())[1])
    with _calling(address, [(lambda client, _: client.search("photos", image=photo), 0.0)] * FLOODING):
        yield


@contextmanager
def _calling(address: str, callers: Sequence[tuple[Call, float]]) -> Iterator[None]:
    ended = threading.Event()

    def run(call: Call, pause: float) -> None:
        with Client(address, retries=0, timeout=10) as client:
            for number in count():
                if ended.wait(pause):
                    return
                with contextlib.suppress(VitrailError):  # which the metrics tell of
                    call(client, number)

    threads = [threading.Thread(target=run, args=each) for each in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _port(process: psutil.Process) -> str:
    words = process.cmdline()
    return words[words.index("--port") + 1]


if __name__ == "__main__":
    main()
