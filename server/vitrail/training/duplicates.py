"""Which photos show the same picture: the same bytes, or the same picture encoded, scaled, cut or coloured otherwise.

Two photos are compared pixel by pixel (`same.py`) where they are near each other by their vectors, which find what was
cut, or as tiny pictures, which find what was scaled: so it is n × 12 comparisons at most, not n × n.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vitrail.client.sources import Source
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.network import Floats
from vitrail.training.files import Seen
from vitrail.training.photos import Photo
from vitrail.training.same import SAME, SIDE, Look, agreement, look

NEIGHBOURS, NEAR = 8, 0.7
"""By vectors. Of photos cut to 0.8 of their sides 95% keep a cosine of 0.7; so do 1 in 100 of other pairs."""
TINY_NEIGHBOURS, TINY_NEAR = 4, 0.95
"""As tiny pictures: 0.999 where re-encoded or scaled to half, 0.97 where brighter; of other neighbours 1 in 100
has 0.95."""
ROWS = 256
"""Compared with all at a time: 100 MB for 100,000 photos."""
LOOKS = 512
"""Kept at a time, 130 MB."""
AT_ONCE = 64

Pair = tuple[int, int]


class Group(NamedTuple):
    """Photos of one picture, in the order of their ids."""

    photos: tuple[Photo, ...]
    is_exact: bool
    """Whether their files are the same."""

    @property
    def labels(self) -> list[str]:
        """The labels that somebody gave."""
        return sorted({photo.label for photo in self.photos if photo.label})

    @property
    def splits(self) -> list[str]:
        """The splits that they are in."""
        return sorted({photo.split for photo in self.photos if photo.split})


class Neighbours(NamedTuple):
    """The nearest others of each row, nearest first."""

    rows: NDArray[np.intp]
    """[n, k]"""
    cosines: Floats
    """[n, k]"""


def nearest(vectors: Floats, k: int, shown: Callable[[int], None] = lambda done: None) -> Neighbours:
    """Find the k nearest other rows by cosine, or all others where there are fewer; never n × n at a time."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    k = max(0, min(k, len(unit) - 1))
    rows, cosines = np.empty((len(unit), k), np.intp), np.empty((len(unit), k), np.float32)
    for start in range(0, len(unit) if k else 0, ROWS):
        block = unit[start : start + ROWS] @ unit.T
        here = np.arange(len(block))
        block[here, start + here] = -np.inf
        best = np.argpartition(block, -k, axis=1)[:, -k:]
        found = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-found, axis=1)
        rows[start : start + ROWS] = np.take_along_axis(best, order, axis=1)
        cosines[start : start + ROWS] = np.take_along_axis(found, order, axis=1)
        shown(start + len(block))
    return Neighbours(rows, cosines)


def groups(
    source: Source,
    seen: Sequence[Seen],
    near: Neighbours,
    shown: Callable[[int], None] = lambda done: None,
) -> list[Group]:
    """Find the groups of two photos and more; those of a group that a table gives are taken to be one picture.

    Args:
        source: Where the photos are.
        seen: All of them.
        near: The nearest neighbours by their vectors of the `unique` ones of these.
        shown: Is told what share of the comparisons is done, in percent.
    """
    rows = unique(seen)
    tiny = nearest(np.array([seen[row].tiny for row in rows]).reshape(len(rows), -1), TINY_NEIGHBOURS)
    found = {(min(pair), max(pair)) for pair in [*_above(near, NEAR), *_above(tiny, TINY_NEAR)]}
    candidates = [(rows[one], rows[other]) for one, other in sorted(found)]
    same = [pair for pair, is_same in _compared(source, seen, candidates, shown) if is_same]
    return list(_linked(seen, [*_given(seen), *same]))


def unique(seen: Sequence[Seen]) -> list[int]:
    """The rows of the first photo of each content."""
    first: dict[bytes, int] = {}
    return [row for row, each in enumerate(seen) if first.setdefault(each.hash, row) == row]


def _given(seen: Sequence[Seen]) -> Iterator[Pair]:
    """Each row with the first one of its content, and of the group that it has already."""
    first: dict[object, int] = {}
    for row, each in enumerate(seen):
        yield first.setdefault(each.hash, row), row
        if each.photo.group:
            yield first.setdefault(each.photo.group, row), row


def _above(near: Neighbours, least: float) -> Iterator[Pair]:
    for one, place in np.argwhere(near.cosines >= least):
        yield int(one), int(near.rows[one, place])


def _compared(
    source: Source, seen: Sequence[Seen], pairs: Sequence[Pair], shown: Callable[[int], None]
) -> Iterator[tuple[Pair, bool]]:
    @lru_cache(LOOKS)
    def looked(row: int) -> Look:
        return look(decode(source.read(seen[row].photo.id), ImageLimits(), SIDE))

    def same(pair: Pair) -> bool:
        return agreement(looked(pair[0]), looked(pair[1])) >= SAME

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for start in range(0, len(pairs), AT_ONCE):
            some = pairs[start : start + AT_ONCE]
            yield from zip(some, threads.map(same, some), strict=True)
            shown(100 * (start + len(some)) // len(pairs))


def _linked(seen: Sequence[Seen], pairs: Iterable[Pair]) -> Iterator[Group]:
    one, other = np.array(list(pairs), np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), (len(seen), len(seen)))
    _, parts = connected_components(graph, directed=False)
    order = np.argsort(parts, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        if len(rows) > 1:
            is_exact = len({seen[row].hash for row in rows}) == 1
            yield Group(tuple(sorted(seen[row].photo for row in rows)), is_exact)
