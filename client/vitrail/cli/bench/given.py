"""The vectors that are measured with: opened, and checked before anything is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.cli.bench import BenchFailed
from vitrail.cli.bench.progress import tracked
from vitrail.client.models import Metric

Floats = NDArray[np.float32]

SMALLEST, LARGEST = 2, 4096
"""Dimensions of a vector."""
BLOCK_BYTES = 16 * 1024 * 1024
HELD_OUT = 1000
"""Queries that are taken from the end of the vectors where none are given, or a tenth where there are few."""


@dataclass(frozen=True)
class Given:
    """Vectors to load and queries to ask, both as they were given.

    Attributes:
        name: What they are called in titles.
        base: float16, float32 or float64 [n, d]; may be a memory map.
        queries: float32 [q, d].
        metric: How they compare.
        cache: Where the exact truth is kept, or None.
    """

    name: str
    base: NDArray[Any]
    queries: Floats
    metric: Metric
    cache: Path | None = None

    @property
    def dimension(self) -> int:
        return int(self.base.shape[1])

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Go through the vectors: the first row of each block, and the block as float32."""
        rows = max(1, min(10_000, BLOCK_BYTES // (4 * self.dimension)))
        for start in range(0, len(self.base), rows):
            yield start, np.ascontiguousarray(self.base[start : start + rows], dtype=np.float32)

    @property
    def comparable_queries(self) -> Floats:
        return comparable(self.queries, self.metric)


def comparable(vectors: Floats, metric: Metric) -> Floats:
    """Vectors whose inner product, or distance, is the score: of unit length for cosine."""
    if metric != "cosine":
        return vectors
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def open_files(vectors: Path, queries: Path | None, metric: Metric, count: int | None) -> Given:
    """Open .npy files without reading them into memory; what is in them is checked by `check`.

    Raises:
        BenchFailed: A file is not what it should be.
    """
    base = _matrix(vectors)
    if queries is None:
        held_out = min(HELD_OUT, len(base) // 10)
        if not held_out:
            raise BenchFailed(f"{vectors} has {len(base)} vectors, too few to hold some out as queries")
        base, asked = base[:-held_out], base[-held_out:]
    else:
        asked = _matrix(queries)
    if asked.shape[1] != base.shape[1]:
        raise BenchFailed(f"queries have {asked.shape[1]} dimensions, vectors {base.shape[1]}")
    return Given(vectors.stem, base[:count], np.asarray(asked, np.float32), metric, vectors.parent)


def check(given: Given) -> None:
    """Read all that was given once.

    Raises:
        BenchFailed: A number is NaN or infinite, or a vector has no direction where the metric is cosine.
    """
    _check_block(given.queries, 0, "query", given.metric)
    for start, block in tracked(given.blocks(), "checking vectors", len(given.base)):
        _check_block(block, start, "vector", given.metric)


def _matrix(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BenchFailed(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise BenchFailed(f"{path} holds several arrays; save one as .npy")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise BenchFailed(f"{path} holds {array.dtype} {list(array.shape)}, not floats [n, d]")
    if not SMALLEST <= array.shape[1] <= LARGEST:
        raise BenchFailed(f"{path} has vectors of {array.shape[1]} dimensions, not {SMALLEST} to {LARGEST:,}")
    if not len(array):
        raise BenchFailed(f"{path} has no vectors")
    return array


def _check_block(block: Floats, start: int, what: str, metric: Metric) -> None:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise BenchFailed(f"{what} {start + int(bad.argmax())} has a number that is NaN or infinite")
    if metric == "cosine" and not (flat := block.any(axis=1)).all():
        raise BenchFailed(f"{what} {start + int(flat.argmin())} is zero, which has no direction: try another --metric")
