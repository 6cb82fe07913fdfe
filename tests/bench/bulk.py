"""Searches by photo while photos are written in bulk: how long they take, and what is left of the bulk's rate.

Searches come with a mean of `PAUSE` seconds between an answer and the next question, from one caller.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from tests.bench.report import Section
from tests.bench.turns import ratio
from tests.e2e.running import Running, scrape
from vitrail.client import Client, Record

PAUSE = 0.2
CALLERS, BATCH = 2, 64
"""Calls of bulk work that are under way, and photos of each, as `Client.index` has them."""
WARM_UP = 2.0
EMBEDDED = "vitrail_images_embedded_total"


@dataclass(frozen=True)
class Shared:
    """Seconds of searches, pooled over all rounds; images/s of bulk work in each."""

    idle: NDArray[np.float64]
    busy: NDArray[np.float64]
    alone: NDArray[np.float64]
    beside: NDArray[np.float64]

    @property
    def slower(self) -> float:
        """The p95 of searches beside bulk work, as a multiple of the idle one."""
        return float(np.percentile(self.busy, 95) / np.percentile(self.idle, 95))

    @property
    def left(self) -> float:
        """The share of bulk work's own rate that it has beside searches."""
        return ratio(self.beside, self.alone)

    @property
    def section(self) -> Section:
        def row(what: str, seconds: NDArray[np.float64], rates: NDArray[np.float64]) -> tuple[str, ...]:
            tail = (
                [f"{1000 * value:.1f}" for value in np.percentile(seconds, [50, 95, 99])]
                if len(seconds)
                else ["", "", ""]
            )
            return (what, f"{len(seconds) or ''}", *tail, f"{np.median(rates):,.0f}" if len(rates) else "")

        nothing = np.array([])
        rows = [
            row("searches alone", self.idle, nothing),
            row("bulk alone", nothing, self.alone),
            row("both", self.busy, self.beside),
            ("ratio", "", "", f"{self.slower:.2f}", "", f"{self.left:.3f}"),
        ]
        columns = ("", "searches", "p50 ms", "p95 ms", "p99 ms", "bulk, images/s")
        note = f"One caller who searches {PAUSE} s (in the mean, exponential) after the answer before."
        return Section("searches by photo beside bulk ingestion", columns, rows, note)


class Bulk:
    """Callers who write photos, the same ones again and again, for the time of a `with`."""

    def __init__(self, address: str, name: str, images: list[bytes]) -> None:
        self._address, self._name, self._images = address, name, images
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(caller,)) for caller in range(CALLERS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
        time.sleep(WARM_UP)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _write(self, caller: int) -> None:
        images = enumerate(cycle(self._images))
        with Client(self._address, timeout=600) as client:
            while not self._ended.is_set():
                batch = [next(images) for _ in range(BATCH)]
                records = [Record(f"{caller}-{n % len(self._images)}", image=image) for n, image in batch]
                assert not client.upsert(self._name, records).errors


def measure(
    running: Running, name: str, images: list[bytes], queries: list[bytes], seconds: float, rounds: int
) -> Shared:
    """Searches alone, bulk work alone, and both, for so many seconds each, in turns."""
    pauses, asked = np.random.default_rng(0), cycle(queries)
    idle: list[float] = []
    busy: list[float] = []
    rates = []
    with Client(running.address, timeout=600) as client:
        metrics = client.stats(name).metrics_address
        for _ in range(rounds):
            idle += _searched(client, name, asked, seconds, pauses)
            with Bulk(running.address, name, images):
                before, start = _embedded(metrics), time.perf_counter()
                time.sleep(seconds)
                alone = (_embedded(metrics) - before) / (time.perf_counter() - start)
                before, start = _embedded(metrics), time.perf_counter()
                found = _searched(client, name, asked, seconds, pauses)
                beside = (_embedded(metrics) - before - len(found)) / (time.perf_counter() - start)
            busy += found
            rates.append((alone, beside))
    alone_rates, beside_rates = np.array(rates).T
    return Shared(np.array(idle), np.array(busy), alone_rates, beside_rates)


def _searched(
    client: Client, name: str, queries: Iterator[bytes], seconds: float, pauses: np.random.Generator
) -> list[float]:
    taken = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(pauses.exponential(PAUSE))
        start = time.perf_counter()
        client.search(name, image=next(queries))
        taken.append(time.perf_counter() - start)
    return taken


def _embedded(metrics: str) -> float:
    return scrape(metrics)[EMBEDDED]
