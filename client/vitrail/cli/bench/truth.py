"""The exact truth, compared in float32 block by block, so that a million vectors never stand in memory at once."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.cli.bench.given import Floats, Given, comparable
from vitrail.cli.bench.progress import tracked

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

SCORES = 4 * 1024 * 1024
"""Scores that are held at once, of some queries against a block."""


@dataclass(frozen=True)
class Truth:
    """The best rows for each query, best first: scores float32 [q, k], rows int64 [q, k], -1 where there are fewer."""

    scores: Floats
    rows: Rows

    @property
    def width(self) -> int:
        """How many rows each query has."""
        return int((self.rows[0] >= 0).sum())


def exact(given: Given, k: int, masks: Sequence[Mask]) -> list[Truth]:
    """Find the k best rows for every query: once for each mask, among the rows that it lets through."""
    path = _cached_at(given, k, masks)
    if path and (known := _read(path, len(masks))):
        return known
    found = _compute(given, k, masks)
    if path:
        _write(path, found)
    return found


def _compute(given: Given, k: int, masks: Sequence[Mask]) -> list[Truth]:
    queries = given.comparable_queries
    best = [_Best(len(queries), k) for _ in masks]
    step = max(1, SCORES // 10_000)
    for start, block in tracked(given.blocks(), "computing the exact truth", len(given.base)):
        vectors = comparable(block, given.metric)
        passing = [np.flatnonzero(mask[start : start + len(block)]) for mask in masks]
        for first in range(0, len(queries), step):
            some = slice(first, min(first + step, len(queries)))
            scores = _scores(queries[some], vectors, given.metric == "euclidean")
            for kept, rows in zip(best, passing, strict=True):
                kept.merge(some, scores if len(rows) == len(block) else scores[:, rows], start + rows)
    return [kept.sorted() for kept in best]


def _scores(queries: Floats, vectors: Floats, euclidean: bool) -> Floats:
    """Every query against every vector; larger is better."""
    products: Floats = queries @ vectors.T
    if not euclidean:
        return products
    lengths = np.einsum("qd,qd->q", queries, queries)[:, None] + np.einsum("nd,nd->n", vectors, vectors)
    distances: Floats = 2 * products - lengths
    return distances


class _Best:
    """The best so far."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._scores = np.full((queries, k), -np.inf, np.float32)
        self._rows = np.full((queries, k), -1, np.int64)

    def merge(self, some: slice, scores: Floats, rows: Rows) -> None:
        """Take what is better among the scores [s, n] that some queries have with n more rows."""
        if scores.shape[1] > self._k:
            places = np.argpartition(-scores, self._k - 1, axis=1)[:, : self._k]
            scores, rows = np.take_along_axis(scores, places, axis=1), rows[places]
        else:
            rows = np.broadcast_to(rows, scores.shape)
        both = np.concatenate([self._scores[some], scores], axis=1)
        of_both = np.concatenate([self._rows[some], rows], axis=1)
        places = np.argpartition(-both, self._k - 1, axis=1)[:, : self._k]
        self._scores[some] = np.take_along_axis(both, places, axis=1)
        self._rows[some] = np.take_along_axis(of_both, places, axis=1)

    def sorted(self) -> Truth:
        order = np.argsort(-self._scores, axis=1, kind="stable")
        return Truth(np.take_along_axis(self._scores, order, axis=1), np.take_along_axis(self._rows, order, axis=1))


def _cached_at(given: Given, k: int, masks: Sequence[Mask]) -> Path | None:
    """Where this truth is kept: the name tells one set of vectors, queries and masks from another."""
    if given.cache is None:
        return None
    seen = hashlib.sha256(repr((given.base.shape, str(given.base.dtype), given.metric, k)).encode())
    seen.update(np.ascontiguousarray(given.base[:: max(1, len(given.base) // 1000)]).data)
    seen.update(given.queries.data)
    for mask in masks:
        seen.update(mask.data)
    return given.cache / f"{given.name}-truth-{seen.hexdigest()[:12]}.npz"


def _read(path: Path, masks: int) -> list[Truth] | None:
    try:
        with np.load(path, allow_pickle=False) as held:
            return [Truth(held[f"scores{number}"], held[f"rows{number}"]) for number in range(masks)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, found: list[Truth]) -> None:
    """Keep it if that is possible; it is only a cache."""
    arrays: dict[str, Any] = {f"scores{number}": truth.scores for number, truth in enumerate(found)}
    arrays |= {f"rows{number}": truth.rows for number, truth in enumerate(found)}
    partial = path.with_suffix(".partial.npz")
    try:
        np.savez(partial, **arrays)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
