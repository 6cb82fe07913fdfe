"""FAISS in this process: one index over all vectors, of the recipe that a shard would choose for them.

The only file here that knows the shard's index, and faiss.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vitrail.cli.bench.figures import Build
from vitrail.cli.bench.given import Floats, Given, comparable
from vitrail.cli.bench.loops import Times
from vitrail.cli.bench.progress import tracked
from vitrail.cli.bench.truth import Rows
from vitrail.shard.building import measure
from vitrail.shard.index import Flat, Reranked, Setting, Trained, choose_recipe, training_rows
from vitrail.shard.recall import DEFAULT_TARGET, MARGIN, SAMPLES

VERSION = str(faiss.__version__)


@dataclass(frozen=True)
class Timed:
    """Searches in a row: queries a second, seconds of each call, CPU seconds of a query."""

    per_second: float
    latencies: Times
    cpu_seconds: float


class Alone:
    """A trained index and the vectors that it reranks with, in a memory-mapped file as a shard keeps them.

    Attributes:
        build: How long it took.
        nprobe: What its own curve says that a shard would take by default.
        rerank_factor: The same.
        lists: How many there are to probe.
        recipe: In FAISS's factory language.
    """

    def __init__(self, given: Given, directory: Path, threads: int) -> None:
        """Train and build, on one thread and on so many."""
        recipe = choose_recipe(len(given.base), given.dimension)
        self.recipe, self.lists = recipe.factory, recipe.lists
        written, self.stored = _write(given, directory / "vectors")
        wanted = min(len(given.base), training_rows(recipe))
        sample = np.sort(np.random.default_rng(0).choice(len(given.base), wanted, replace=False))
        rows = comparable(np.asarray(given.base[sample], np.float32), given.metric)
        with _threads(threads):
            start = time.perf_counter()
            self._index = Trained.train(rows, recipe, given.metric)
            trained = time.perf_counter() - start
        added, added_on_threads, copied = self._add(given, threads)
        self._flat = Flat(self.stored, given.metric)
        self._main = Reranked(self._index, self._flat, np.full((len(given.base) + 7) // 8, 255, np.uint8))
        every = np.arange(len(given.base))
        asked = np.sort(np.random.default_rng(1).choice(every, min(SAMPLES, len(every)), replace=False))
        chosen = measure(self._index, self.stored, every, asked, share=1.0).cheapest(DEFAULT_TARGET + MARGIN).setting
        self.nprobe, self.rerank_factor = chosen.nprobe, chosen.rerank_factor
        self.build = Build(trained, added, added_on_threads, copied, written)

    def search(self, queries: Floats, k: int, nprobe: int = 0, rerank_factor: float = 0.0) -> Rows:
        """Rows int64 [q, k] of comparable queries [q, d], best first; 0 takes the recipe's own parameter."""
        return self._main.search(queries, k, Setting(nprobe or self.nprobe, rerank_factor or self.rerank_factor))[1]

    def search_exactly(self, queries: Floats, k: int) -> Rows:
        return self._flat.search(queries, k)[1]

    def _add(self, given: Given, threads: int) -> tuple[float, float, float]:
        """Add all vectors, of each block one half on one thread and one on several.

        Returns:
            Rows a second of either, and of plain copies.
        """
        seconds, rows = dict.fromkeys((1, threads), 0.0), dict.fromkeys((1, threads), 0)
        copying = 0.0
        for start, block in tracked(given.blocks(), "adding to FAISS in process", len(given.base)):
            copy = np.zeros_like(block)
            began = time.perf_counter()
            np.copyto(copy, block)
            copying += time.perf_counter() - began
            vectors, numbers = comparable(block, given.metric), np.arange(start, start + len(block))
            half = -(-len(block) // 2)
            for used, some in ((1, slice(half)), (threads, slice(half, None))):
                with _threads(used):
                    began = time.perf_counter()
                    self._index.add(vectors[some], numbers[some])
                    seconds[used] += time.perf_counter() - began
                rows[used] += len(numbers[some])
        one = rows[1] / seconds[1]
        return one, rows[threads] / seconds[threads] if rows[threads] else one, len(given.base) / copying


def timed(
    work: Callable[[Floats], object], queries: Floats, batch: int, seconds: float, threads: int = 1, whole: bool = False
) -> Timed:
    """Search in batches of so many, going round: for so many seconds, and for all queries once where wanted."""
    parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    taken: list[float] = []
    done = 0
    with _threads(threads):
        work(parts[0])
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds or (whole and len(taken) < len(parts)):
            part = parts[len(taken) % len(parts)]
            began = time.perf_counter()
            work(part)
            taken.append(time.perf_counter() - began)
            done += len(part)
        return Timed(done / (time.perf_counter() - start), np.array(taken), (time.process_time() - cpu) / done)


def copies(stored: NDArray[Any], rows: int, seconds: float) -> float:
    """How often a second one thread copies so many rows that lie anywhere."""
    random = np.random.default_rng(0)
    places = random.integers(len(stored), size=(256, min(rows, len(stored))))
    target = np.empty((places.shape[1], stored.shape[1]), stored.dtype)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        np.take(stored, places[done % len(places)], axis=0, out=target, mode="clip")
        done += 1
    return done / (time.perf_counter() - start)


def _write(given: Given, path: Path) -> tuple[float, NDArray[Any]]:
    """Write vectors as a shard stores them: rows a second, and the file as a memory map."""
    dtype = np.float16 if given.metric == "cosine" else np.float32
    seconds = 0.0
    with path.open("wb") as file:
        for _, block in tracked(given.blocks(), "writing vectors to a file", len(given.base)):
            data = comparable(block, given.metric).astype(dtype)
            began = time.perf_counter()
            file.write(data.data)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        file.flush()
        os.fsync(file.fileno())
        seconds += time.perf_counter() - began
    return len(given.base) / seconds, np.memmap(path, dtype, "r", shape=given.base.shape)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads inside a call of FAISS, its BLAS included; one afterwards."""
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(1)
