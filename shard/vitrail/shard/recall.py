"""What a trained index finds: recall, measured against exact search over a grid of settings.

Recall is that of the merged answer: ids are hashed to shards, so of the best K records a shard of N holds about
K / N, and its best ones count more than its K-th (`weights`).

A training ends with measuring the curve on rows of the partition, each searched without itself. In life, queries of
callers are sampled, a few at a time, and take the place of those. So the partition knows which setting is the
cheapest for a recall that is asked for, and notices when what it finds rots.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from vitrail.shard.index import Flat, Floats, Reranked, Setting

K = 10
"""Recall is of this many hits."""
FACTORS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 28.0, 40.0)
SAMPLES = 256
"""The mean is taken over this many of the latest queries."""
DEFAULT_TARGET = 0.95
MARGIN = 0.01
"""Settings are chosen to reach this much more than the target: about the standard error of the mean."""
STRANGERS = 0.02
"""And so much more while only rows of the partition have been asked for, which find each other more easily than
queries of callers do: 0.963 and 0.932 on cells of photos."""
ENOUGH = 64
"""Queries of callers after which those rows do not count any more."""
HOPELESS = 0.1
"""An index that misses the target by this much at its best setting is not searched."""
SAME_SCORE = 1e-5
"""Relative to a score. A candidate that is as good as a true hit counts as that hit: duplicates share a score."""


class Point(NamedTuple):
    """One setting, what it finds, and what one query costs in seconds."""

    setting: Setting
    recall: float
    seconds: float


class Curve(BaseModel):
    """Recall over a grid: of lists probed, ascending, times FACTORS."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    nprobes: tuple[int, ...]
    recall: tuple[tuple[float, ...], ...]
    """[nprobes, FACTORS]."""
    probe_seconds: tuple[float, ...]
    """Of proposing candidates for one query, for each nprobe."""
    rerank_seconds: float
    """Of comparing one candidate exactly."""
    samples: int
    real_samples: int = 0
    """How many of the samples were queries of callers."""

    def points(self) -> list[Point]:
        """All settings, cheapest first."""
        settings = [[Setting(nprobe, factor) for factor in FACTORS] for nprobe in self.nprobes]
        points = [
            Point(setting, recall, self.seconds(setting, K))
            for row, found in zip(settings, self.recall, strict=True)
            for setting, recall in zip(row, found, strict=True)
        ]
        return sorted(points, key=lambda point: point.seconds)

    def frontier(self) -> list[Point]:
        """The settings than which no cheaper one finds as much."""
        best, frontier = -1.0, []
        for point in self.points():
            if point.recall > best:
                frontier.append(point)
                best = point.recall
        return frontier

    def cheapest(self, target: float) -> Point:
        """The cheapest setting whose recall is at least `target`; where there is none, the one that finds the most."""
        frontier = self.frontier()
        return next((point for point in frontier if point.recall >= target), frontier[-1])

    def seconds(self, setting: Setting, k: int) -> float:
        """What one query for k hits costs."""
        probing = float(np.interp(setting.nprobe, self.nprobes, self.probe_seconds))
        return probing + setting.candidates(k) * self.rerank_seconds

    def at(self, setting: Setting) -> float:
        """What is known to be found by a setting at least: the recall of the grid's best one below it; 0 if none is."""
        below = [
            recall
            for nprobe, row in zip(self.nprobes, self.recall, strict=True)
            for factor, recall in zip(FACTORS, row, strict=True)
            if nprobe <= setting.nprobe and factor <= setting.rerank_factor
        ]
        return max(below, default=0.0)


def grid(lists: int) -> tuple[int, ...]:
    """Lists to probe, from few to all, each about half as many again as the one before."""
    return tuple(dict.fromkeys(max(1, round(lists / 1.5**step)) for step in range(12, -1, -1)))


def weights(share: float) -> NDArray[np.float64]:
    """How probably each of the best K records of a shard, which has a share of all, is among the best K of all.

    The r-th best of the shard is, where at least r of the K best have hashed to it: the tail of a binomial
    distribution. float64 [K].
    """
    exactly = [math.comb(K, r) * share**r * (1 - share) ** (K - r) for r in range(K + 1)]
    return np.array([sum(exactly[r:]) for r in range(1, K + 1)])


def found_on_grid(
    index: Reranked, flat: Flat, nprobes: Sequence[int], query: Floats, true: Floats, share: float, itself: int = -1
) -> NDArray[np.float32]:
    """The share of its true hits that one query finds at every setting: float32 [nprobes, FACTORS].

    Args:
        index: Is measured.
        flat: All rows.
        nprobes: The grid.
        query: float32 [d].
        true: The scores of the best rows, at most K, best first.
        share: What the shard holds of all records.
        itself: The row that the query is, which does not count.
    """
    if not len(true):
        return np.ones((len(nprobes), len(FACTORS)), np.float32)
    weight = weights(share)[: len(true)]
    most = Setting(1, FACTORS[-1]).candidates(K)
    reached = np.array([Setting(1, factor).candidates(K) for factor in FACTORS])
    found = np.empty((len(nprobes), len(FACTORS)), np.float32)
    proposed = [index.candidates(query[np.newaxis], most + 1, nprobe)[0] for nprobe in nprobes]
    every = np.unique(np.concatenate(proposed))
    every = every[every >= 0]
    scores = flat.scores(query, every)  # of each once: reading half precision is most of the work
    for place, candidates in enumerate(proposed):
        rows = candidates[(candidates >= 0) & (candidates != itself)]
        same = np.abs(scores[np.searchsorted(every, rows), np.newaxis] - true) <= SAME_SCORE * np.abs(true)
        first = np.where(same.any(axis=0), same.argmax(axis=0), most + 1) if len(rows) else np.full(len(true), most + 1)
        found[place] = (weight @ (first[:, np.newaxis] < reached)) / weight.sum()
    return found


def costs(index: Reranked, nprobes: Sequence[int], queries: Floats) -> tuple[tuple[float, ...], float]:
    """Seconds of CPU that single queries of float32 [q, d] take: for each nprobe without reranking, and a candidate."""

    def seconds(setting: Setting) -> float:
        start = time.thread_time()
        for query in queries:
            index.search(query[np.newaxis], K, setting)
        return (time.thread_time() - start) / len(queries)

    few, many = (Setting(nprobes[len(nprobes) // 2], factor) for factor in (FACTORS[0], FACTORS[-1]))
    seconds(few)  # brings caches and page tables up
    candidate = max(0.0, seconds(many) - seconds(few)) / (many.candidates(K) - few.candidates(K))
    least = Setting(1, FACTORS[0])
    without = [seconds(Setting(nprobe, FACTORS[0])) - candidate * least.candidates(K) for nprobe in nprobes]
    return tuple(np.maximum.accumulate(np.maximum(without, 0.0)).tolist()), candidate


class Observed:
    """A partition's curve as it is now: what the training measured, and what callers' queries found since."""

    def __init__(self, trained: Curve) -> None:
        self.trained = trained
        self.curve = trained
        self._points: dict[float, Point] = {}
        self._known: dict[Setting, float] = {}
        self._recent: deque[NDArray[np.float32]] = deque(maxlen=SAMPLES)

    def point(self, target: float) -> Point:
        """The cheapest setting for a recall, as far as it is known now."""
        points = self._points
        if target not in points:
            strange = STRANGERS * max(0.0, 1 - self.curve.real_samples / ENOUGH)
            points[target] = self.curve.cheapest(target + MARGIN + strange)
        return points[target]

    def is_hopeless(self, target: float) -> bool:
        """Whether exact search is the only honest answer, as where all vectors lie on a line."""
        return self.point(1.0).recall < target - HOPELESS

    def recall(self, setting: Setting) -> float:
        """What a setting finds, as `Curve.at`."""
        known = self._known
        if setting not in known:
            if len(known) > 1000:
                known.clear()
            known[setting] = self.curve.at(setting)
        return known[setting]

    def add(self, found: NDArray[np.float32]) -> None:
        """Take what one query of a caller found on the grid."""
        self._recent.append(found)
        real = len(self._recent)
        before = max(0, min(self.trained.samples, ENOUGH) - real)
        mean = np.mean(self._recent, axis=0)
        if before:
            mean = (real * mean + before * np.array(self.trained.recall)) / (real + before)
        self.curve = self.curve.model_copy(
            update={
                "recall": tuple(tuple(map(float, row)) for row in mean),
                "samples": real + before,
                "real_samples": real,
            }
        )
        self._points, self._known = {}, {}
