"""How much of the truth was found."""

import numpy as np

from vitrail.cli.bench.given import Floats, Given, comparable
from vitrail.cli.bench.truth import Rows, Truth

TIES = 1e-6
"""Scores this near, relative to their size, are one: which of two equal vectors is found does not matter."""
NOT_ASKED = -2
"""The row of a query that was not asked; -1 where fewer were found."""
CHUNK_BYTES = 64 * 1024 * 1024


def recall(given: Given, truth: Truth, found: Rows, k: int, tolerance: float = TIES) -> float | None:
    """The share of min(k, all that pass) best rows that were found, over the queries that were asked.

    A row counts when it is one of them, or when its exact score reaches the k-th true one within the tolerance.

    Args:
        given: The vectors.
        truth: Of at least k rows a query.
        found: int64 [q, at least k], best first.
        k: How many hits count.
        tolerance: Relative to the k-th score where that is above 1.

    Returns:
        None where there was nothing to find.
    """
    asked = np.flatnonzero((found[:, :k] != NOT_ASKED).all(axis=1))
    wanted = min(k, truth.width)
    if not wanted or not len(asked):
        return None
    rows, true = found[asked, :k], truth.rows[asked, :wanted]
    last = truth.scores[asked, wanted - 1]
    same = (rows[:, :, None] == true[:, None, :]).any(axis=2)
    near = exact_scores(given, asked, rows) >= (last - tolerance * np.maximum(1, np.abs(last)))[:, None]
    counts = np.minimum(((same | near) & (rows >= 0)).sum(axis=1), wanted)
    return float(counts.mean() / wanted)


def exact_scores(given: Given, asked: Rows, rows: Rows) -> Floats:
    """The scores in float32 of rows int64 [q, k] that were found for queries int64 [q]; -inf for row -1."""
    queries = given.comparable_queries
    scores = np.empty(rows.shape, np.float32)
    step = max(1, CHUNK_BYTES // (4 * given.dimension * max(1, rows.shape[1])))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        vectors = np.asarray(given.base[np.maximum(rows[some], 0).ravel()], np.float32)
        vectors = comparable(vectors, given.metric).reshape(*rows[some].shape, given.dimension)
        query = queries[asked[some]][:, None, :]
        if given.metric == "euclidean":
            scores[some] = -np.square(vectors - query).sum(axis=2)
        else:
            scores[some] = (vectors * query).sum(axis=2)
    scores[rows < 0] = -np.inf
    return scores
