"""Curves of recall@10 against throughput, and what on FAISS's is as exact as the server."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from vitrail.cli.bench.alone import Alone, timed
from vitrail.cli.bench.callers import Callers, Load
from vitrail.cli.bench.calls import Asked, How
from vitrail.cli.bench.figures import Point
from vitrail.cli.bench.given import Floats, Given
from vitrail.cli.bench.recall import recall
from vitrail.cli.bench.truth import Rows, Truth

K = 10
FACTORS = (4.0, 10.0, 30.0, 60.0)
BATCH_CALLERS = 2
SECONDS = 2.0
"""The longest for one point; recall takes every query once, however long that takes."""
EXACT_QUERIES, EXACT_COMPARISONS = 100, 50_000_000
"""Exact answers are slow, and all alike: this many queries will do, or as many as compare so many vectors."""


def nprobes(lists: int) -> list[int]:
    """Powers of two up to the number of lists, and that."""
    return [*(2**power for power in range(lists.bit_length()) if 2**power < lists), lists]


def lists_of(recipes: Sequence[str]) -> int:
    """The lists of the largest of these indexes; 0 where none has any."""
    return max((int(found[1]) for recipe in recipes if (found := re.search(r"IVF(\d+)", recipe))), default=0)


def server(
    callers: Callers, asked: Asked, given: Given, truth: Truth, lists: int, seconds: float, shown: Callable[[str], None]
) -> list[Point]:
    """The server's curve: its defaults, what it may be asked for instead, and exact."""

    def point(how: How, default: bool = False) -> Point:
        shown(f"the server's curve: {_name(how)}")
        queries = few(asked.queries, given) if how.exact else asked.queries
        one = Asked(asked.collection, queries, K, asked.batch, how)
        load = Load(BATCH_CALLERS, 0.0 if how.exact else min(seconds, SECONDS), whole=True)
        answered = callers.ask(one, load)
        answers = answered.answers
        found = recall(given, truth, answers.rows, K) or 0.0
        exact = answers.exact and not answers.errors
        return Point(answers.nprobe, answers.rerank_factor, exact, found, answered.per_second, default)

    hows = (
        [How(nprobe=nprobe, rerank_factor=factor) for factor in FACTORS for nprobe in nprobes(lists)] if lists else []
    )
    points = [point(How(), default=True), *map(point, hows)]
    return [*points, point(How(exact=True))] if lists else points


def alone(faiss: Alone, given: Given, truth: Truth, batch: int, seconds: float) -> list[Point]:
    """The same of FAISS in process, on one thread."""
    queries = given.comparable_queries
    pairs = [(nprobe, factor) for factor in FACTORS for nprobe in nprobes(faiss.lists)]
    points = [
        _alone_point(faiss, given, truth, batch, seconds, faiss.nprobe, faiss.rerank_factor, default=True),
        *(_alone_point(faiss, given, truth, batch, seconds, *pair) for pair in pairs),
    ]
    some = few(queries, given)
    rate = timed(lambda part: faiss.search_exactly(part, K), some, batch, 0.0, whole=True)
    found = recall(given, truth, _all(lambda part: faiss.search_exactly(part, K), some, batch), K) or 0.0
    return [*points, Point(0, 0.0, True, found, rate.per_second)]


def as_exact(faiss: Alone, given: Given, truth: Truth, batch: int, seconds: float, wanted: float) -> Point:
    """The fastest of FAISS's parameters that find at least so much; the most exact where none does."""
    candidates = []
    for factor in FACTORS:
        low, high = 1, faiss.lists
        while low < high:
            middle = (low + high) // 2
            if _alone_recall(faiss, given, truth, batch, middle, factor) >= wanted:
                high = middle
            else:
                low = middle + 1
        candidates.append(_alone_point(faiss, given, truth, batch, seconds, low, factor))
    enough = [point for point in candidates if point.recall >= wanted]
    if enough:
        return max(enough, key=lambda point: point.per_second)
    return max(candidates, key=lambda point: point.recall)


def few(queries: Floats, given: Given) -> Floats:
    """As many as can be answered exactly in a short time."""
    return queries[: max(EXACT_QUERIES, EXACT_COMPARISONS // len(given.base))]


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both recall and rate, by recall."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.per_second)):
        if not best or point.per_second > best[-1].per_second:
            best.append(point)
    return best[::-1]


def _alone_point(
    faiss: Alone,
    given: Given,
    truth: Truth,
    batch: int,
    seconds: float,
    nprobe: int,
    factor: float,
    default: bool = False,
) -> Point:
    rate = timed(
        lambda part: faiss.search(part, K, nprobe, factor), given.comparable_queries, batch, min(seconds, SECONDS) / 2
    )
    found = _alone_recall(faiss, given, truth, batch, nprobe, factor)
    return Point(nprobe, factor, False, found, rate.per_second, default)


def _alone_recall(faiss: Alone, given: Given, truth: Truth, batch: int, nprobe: int, factor: float) -> float:
    rows = _all(lambda part: faiss.search(part, K, nprobe, factor), given.comparable_queries, batch)
    return recall(given, truth, rows, K) or 0.0


def _all(work: Callable[[Floats], Rows], queries: Floats, batch: int) -> Rows:
    return np.concatenate([work(queries[start : start + batch]) for start in range(0, len(queries), batch)])


def _name(how: How) -> str:
    if how.exact:
        return "exact"
    return f"nprobe {how.nprobe}, rerank {how.rerank_factor:g}" if how.rerank_factor else "as it is"
