"""A partition at one moment, and how it is searched.

The rows before `folded` are in the trained index, those from there on are the tail, searched exactly; without a
trained index everything is tail. A view never changes: searches keep the one they began with. Only the trained index
may grow meanwhile: a view's bitmap ends at its own `folded`, and rows beyond it do not count.
"""

from dataclasses import dataclass

import numpy as np

from vitrail.shard.bitmap import count, rows_of
from vitrail.shard.index import Bits, Flat, Floats, Metric, Reranked, Rows, Setting, Trained
from vitrail.shard.table import Table
from vitrail.v1.filter_pb2 import Filter

# Searches of the trained index and additions to it take turns: this many queries, then who waits for the lock.
SEARCH_SLICE = 128
# Up to so many rows that pass a filter are gathered, to be compared where they lie side by side.
FEW = 8192
NO_SETTING = Setting(0, 0.0)


@dataclass(frozen=True, slots=True)
class Found:
    """Scores float32 [q, k] and rows int64 [q, k], best first, row -1 where there are fewer; and how."""

    scores: Floats
    rows: Rows
    exact: bool
    setting: Setting = NO_SETTING
    matching: int = 0
    """Records that passed the filter; 0 without one."""


class View:
    """What searches see of a partition."""

    def __init__(
        self, table: Table, metric: Metric, live: Bits, records: int, folded: int = 0, trained: Trained | None = None
    ) -> None:
        """Look at a table as it is now.

        Args:
            table: Whose rows.
            metric: How vectors compare.
            live: One bit a row, the lowest first: set for those that hold a record.
            records: How many are set.
            folded: The rows before this one are in `trained`. A multiple of 8, so that bitmaps can be cut there.
            trained: An index, or None.
        """
        vectors = table.vectors
        self.table = table
        self.rows = len(vectors)
        self.metric = metric
        self.live = live
        self.records = records
        self.folded = folded
        self.trained = trained
        self.all = Flat(vectors, metric)
        self._tail = Flat(vectors[folded:], metric)
        self._main = self._reranked(live)

    def main(self) -> Reranked:
        """The trained index over the rows that count."""
        if self._main is None:
            raise ValueError("there is no trained index")
        return self._main

    def passing(self, filter: Filter) -> Bits:
        """The records that pass a filter: one bit a row, the lowest first.

        Raises:
            ValueError: The filter cannot be evaluated here.
        """
        return self.table.passing.bits(filter, self.rows) & self.live

    def exact(self, queries: Floats, k: int, passing: Bits | None = None) -> Found:
        """Compare float32 [q, d] with every record, or with those that pass."""
        if passing is None:
            return Found(*self.all.search(queries, k, self.live), exact=True)
        matching = count(passing)
        if matching > FEW:
            return Found(*self.all.search(queries, k, passing), exact=True, matching=matching)
        return Found(*self.all.among(queries, k, rows_of(passing)), exact=True, matching=matching)

    def approximate(self, queries: Floats, k: int, setting: Setting, passing: Bits | None = None) -> Found:
        """Search the trained index, and the tail exactly, for float32 [q, d].

        Queries that find less than there is are answered exactly: few lists hold few rows, and faiss's fast scan
        finds nothing at all where all vectors are the same.
        """
        main, live, matching = self.main(), self.live, self.records
        if passing is not None:
            main, live, matching = self._reranked(passing) or main, passing, count(passing)
        slices = [
            main.search(queries[start : start + SEARCH_SLICE], k, setting)
            for start in range(0, len(queries), SEARCH_SLICE)
        ]
        scores, rows = slices[0] if len(slices) == 1 else (np.concatenate(parts) for parts in zip(*slices, strict=True))
        if self.rows > self.folded:
            tail_scores, tail_rows = self._tail.search(queries, k, live[self.folded // 8 :])
            tail_rows[tail_rows >= 0] += self.folded
            scores, rows = _best(k, (scores, tail_scores), (rows, tail_rows))
        short = np.count_nonzero(rows >= 0, axis=1) < min(k, matching)
        if short.any():
            exact = self.exact(queries[short], k, passing)
            scores[short], rows[short] = exact.scores, exact.rows
        return Found(scores, rows, exact=False, matching=0 if passing is None else matching, setting=setting)

    def _reranked(self, live: Bits) -> Reranked | None:
        return self.trained and Reranked(self.trained, self.all, live[: self.folded // 8])


def _best(k: int, scores: tuple[Floats, Floats], rows: tuple[Rows, Rows]) -> tuple[Floats, Rows]:
    """The k best of two answers to the same queries."""
    all_scores, all_rows = np.hstack(scores), np.hstack(rows)
    all_scores[all_rows < 0] = -np.inf
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_rows, order, 1)
