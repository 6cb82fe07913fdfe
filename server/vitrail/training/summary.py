"""What many queries say together: means with confidence intervals, of each class and of all; two models compared."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitrail.training.measures import Floats
from vitrail.training.ranking import PerQuery

MEASURES = ("AP", "AP@R", "P@10", "hit@1", "hit@10", "recall@10", "recall@100", "RR", "NDCG@10")
NAMES = {"AP": "mAP", "AP@R": "mAP@R", "RR": "MRR"}
"""What the mean of a measure is called, where that is another name."""

RESAMPLES = 2000
AT_ONCE = 1 << 22
"""Counts of resampled queries that are held at a time."""
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean, and where it lies with a confidence of 95 %, were the queries drawn again."""

    mean: float
    low: float
    high: float


class Row(NamedTuple):
    """Some queries together."""

    name: str
    """Of the class; "" where these are all queries."""
    queries: int
    """Of these, so many have something relevant in the gallery, and count."""
    values: dict[str, Interval]
    """By measure."""


class Difference(NamedTuple):
    """By how much a second model is better than a first one, on the same queries."""

    interval: Interval
    p_value: float
    """How likely a difference so large would be, were both models alike: signs of the differences changed at random."""


def summary(found: PerQuery, measures: Sequence[str] = MEASURES, seed: int = 0) -> list[Row]:
    """All queries, then those of each class by its name; classes without a query that counts are left out."""
    counts = found.measures.relevant > 0
    values = np.column_stack([found.measures.of(measure) for measure in measures])
    labels = np.array([photo.label for photo in found.queries], str)
    classes = [
        ("", counts),
        *((str(label), counts & (labels == label)) for label in np.unique(labels[counts]) if label),
    ]
    return [
        Row(name, int(rows.sum()), dict(zip(measures, intervals(values[rows], seed), strict=True)))
        for name, rows in classes
    ]


def intervals(values: Floats, seed: int = 0) -> list[Interval]:
    """Of each column of values [n, m]: its mean, and the percentiles of the means of resampled rows (bootstrap)."""
    if not len(values):
        return [Interval(*[float("nan")] * 3)] * values.shape[1]
    means = np.concatenate([*_resampled(values, seed)])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return [Interval(*map(float, each)) for each in zip(values.mean(axis=0, dtype=float), low, high, strict=True)]


def compare(one: PerQuery, other: PerQuery, measures: Sequence[str] = MEASURES, seed: int = 0) -> dict[str, Difference]:
    """How a second model does beside a first one, by measure, over the queries that count for both.

    Raises:
        ValueError: They did not have the same queries, or none counts.
    """
    from scipy.stats import permutation_test

    if [photo.id for photo in one.queries] != [photo.id for photo in other.queries]:
        raise ValueError("two models are compared on the same queries")
    rows = (one.measures.relevant > 0) & (other.measures.relevant > 0)
    if not rows.any():
        raise ValueError("no query has anything relevant in the gallery")
    better = np.column_stack([other.measures.of(each)[rows] - one.measures.of(each)[rows] for each in measures])
    tested = permutation_test(
        (better,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        axis=0,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // better.size),
        rng=np.random.default_rng(seed),
    )
    found = zip(measures, intervals(better, seed), tested.pvalue, strict=True)
    return {measure: Difference(interval, float(p_value)) for measure, interval, p_value in found}


def _resampled(values: Floats, seed: int) -> Iterator[Any]:
    """Means of resampled rows, [RESAMPLES, m] in all."""
    random = np.random.default_rng(seed)
    share = np.full(len(values), 1 / len(values))
    at_once = max(1, AT_ONCE // len(values))
    for start in range(0, RESAMPLES, at_once):
        yield random.multinomial(len(values), share, min(at_once, RESAMPLES - start)) @ values / len(values)
