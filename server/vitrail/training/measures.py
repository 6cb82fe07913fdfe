"""How good rankings are: the measures of retrieval, for each query.

With R relevant photos in the gallery, of which the j-th that is found stands at rank r_j:

    AP        mean over j of j / r_j: over the whole ranking, as scikit-learn's average_precision_score
    AP@R      sum over r_j <= R of j / r_j, by R: the first R alone (Musgrave et al. 2020)
    P@k       share of the first k that is relevant
    hit@k     1 where one of the first k is relevant, else 0: what metric learning calls R@k
    recall@k  share of the R that is among the first k
    RR        1 / r_1
    NDCG@k    sum over r_j <= k of 1 / log2(1 + r_j), by what it is at best

One that is not found, since a ranking ends before it, adds nothing. A query without anything relevant has no measures:
they are NaN, and no mean counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

DEPTH = 100
"""The largest k."""
LEVELS = 50
"""Precision is known at so many shares of what is relevant: 1/50, 2/50, ... 1."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Of n queries, in their order."""

    relevant: Ints
    """[n]: R."""
    found: Ints
    """[n, DEPTH]: how many of the first 1, 2, ... are relevant."""
    gains: Floats
    """[n, DEPTH]: the sums of NDCG@1, NDCG@2, ..."""
    ap: Floats
    """[n]"""
    ap_at_r: Floats
    """[n]"""
    rr: Floats
    """[n]"""
    precision: Floats
    """[n, LEVELS]: where a share of the relevant was found, that of the ranking until there that is relevant."""

    def of(self, measure: str) -> Floats:
        """One of the measures above, by its name: [n], NaN where nothing is relevant.

        Raises:
            KeyError: There is none of that name.
        """
        name, _, depth = measure.partition("@")
        if measure == "AP@R" or not depth:
            found = {"AP": self.ap, "AP@R": self.ap_at_r, "RR": self.rr}[measure]
        else:
            found = self._at(name, int(depth))
        return np.where(self.relevant > 0, found, np.nan).astype(np.float32)

    def mean(self, measure: str) -> float:
        """Over queries with something relevant; NaN where there are none."""
        found = self.of(measure)[self.relevant > 0]
        return float(found.mean()) if len(found) else float("nan")

    def _at(self, name: str, k: int) -> Any:
        if not 1 <= k <= DEPTH:
            raise KeyError(f"k of 1 to {DEPTH}, not {k}")
        found, relevant = self.found[:, k - 1], np.maximum(self.relevant, 1)
        ideal = np.cumsum(_discounts(DEPTH))
        return {
            "P": found / k,
            "hit": found > 0,
            "recall": found / relevant,
            "NDCG": self.gains[:, k - 1] / ideal[np.minimum(relevant, k) - 1],
        }[name]


def measure(ranks: Sequence[Ints], relevant: Ints) -> Measures:
    """The measures of queries.

    Args:
        ranks: For each query the ranks of what is relevant and was found, from 1, ascending.
        relevant: [n]: how many there are, found or not.
    """
    lengths = np.fromiter(map(len, ranks), np.int64, len(ranks))
    flat = np.concatenate([*ranks, np.empty(0, np.int64)])
    query = np.repeat(np.arange(len(ranks)), lengths)
    starts = np.cumsum(lengths) - lengths
    precision = (np.arange(len(flat)) - starts[query] + 1) / flat
    per_relevant = 1 / np.maximum(relevant, 1)
    within = flat <= relevant[query]
    at = np.zeros((len(ranks), DEPTH))
    early = flat <= DEPTH
    at[query[early], flat[early] - 1] = 1
    steps = -(-np.arange(1, LEVELS + 1) * relevant[:, None] // LEVELS)
    reached = (steps > 0) & (steps <= lengths[:, None])
    places = np.where(reached, starts[:, None] + steps - 1, 0)
    return Measures(
        relevant,
        np.cumsum(at, axis=1).astype(np.int64),
        np.cumsum(at * _discounts(DEPTH), axis=1).astype(np.float32),
        (np.bincount(query, precision, len(ranks)) * per_relevant).astype(np.float32),
        (np.bincount(query[within], precision[within], len(ranks)) * per_relevant).astype(np.float32),
        np.array([1 / of_query[0] if len(of_query) else 0 for of_query in ranks], np.float32),
        np.where(reached, precision[places] if len(flat) else 0, 0).astype(np.float32),
    )


def joined(parts: Sequence[Measures]) -> Measures:
    """Those of some queries after those of others."""
    return Measures(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Measures)))


def _discounts(depth: int) -> Any:
    return 1 / np.log2(np.arange(2, depth + 2))
