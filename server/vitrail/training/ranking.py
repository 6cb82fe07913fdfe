"""Exact rankings of a gallery, and how good they are, for each query.

A query that is in the gallery, by its id, is left out of its own ranking. What scores the same stands in the order of
the gallery. A block of queries is compared with the whole gallery at a time, and only what is measured is kept of it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vitrail.client import InvalidArgument
from vitrail.training.measures import Floats, Ints, Measures, joined, measure
from vitrail.training.photos import Photo
from vitrail.training.vectors import Vectors

Metric = Literal["cosine", "inner_product", "euclidean"]
METRICS: Sequence[Metric] = get_args(Metric)

SHOWN = 10
"""The first of each ranking are kept."""
BLOCK_BYTES = 1 << 28
"""Of scores that all threads hold together."""
FEW = 32
"""Scores that are found twice; each costs a look at all, and an order of all costs as much as many of these."""
LEAST_ROWS = 64
"""Fewer queries at a time would read the gallery for too little work."""


@dataclass(frozen=True, slots=True)
class PerQuery:
    """What was found for each query, in their order."""

    queries: Sequence[Photo]
    gallery: Sequence[Photo]
    measures: Measures
    top: Ints
    """[n, 10]: places in the gallery of the first ones; fewer where the gallery has fewer."""
    scores: Floats
    """[n, 10]: theirs; a larger one is better, and Euclidean gives minus the squared distance."""

    @property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool]]:
        """[n, 10]: which of the first ones are relevant."""
        return np.diff(self.measures.found[:, : self.top.shape[1]], axis=1, prepend=0) > 0


class _Compared(NamedTuple):
    """Vectors whose inner products rank as a metric does, once `finish` has changed those of a query in their place."""

    queries: Floats
    gallery: Floats
    finish: Callable[[Floats], Floats]


class _Found(NamedTuple):
    measures: Measures
    top: Ints
    scores: Floats

    @classmethod
    def joined(cls, parts: Sequence["_Found"]) -> "_Found":
        measures, tops, scores = zip(*parts, strict=True)
        return cls(joined(measures), np.concatenate(tops), np.concatenate(scores))


def evaluate(
    queries: Vectors, gallery: Vectors, metric: Metric = "cosine", relevant: Sequence[Ints] | None = None
) -> PerQuery:
    """Rank the gallery for each query, and measure the rankings.

    Args:
        queries: What is searched for.
        gallery: What is searched, at least one photo that is not the query.
        metric: How vectors compare.
        relevant: For each query the places in the gallery of what is relevant; the photos of its label if not given.

    Raises:
        InvalidArgument: A vector cannot be compared, or dimensions differ; names the photo.
    """
    for given in (queries, gallery):
        _check(given, metric, gallery.vectors.shape[1])
    if len(gallery.photos) < 2:
        raise InvalidArgument("a gallery of one photo ranks nothing", field="gallery")
    places = {photo.id: place for place, photo in enumerate(gallery.photos)}
    own = [places.get(photo.id, -1) for photo in queries.photos]
    if relevant is None:
        relevant = of_labels(queries.photos, gallery.photos)
    compared = _compared(queries.vectors, gallery.vectors, metric)
    found = _Found.joined(_ranked(compared, own, relevant))
    scores = found.scores
    if metric == "euclidean":
        scores = 2 * scores - _squares(compared.queries)[:, None]
    return PerQuery(queries.photos, gallery.photos, found.measures, found.top, scores)


def of_labels(queries: Sequence[Photo], gallery: Sequence[Photo]) -> list[Ints]:
    """For each query the places in the gallery of the photos of its label."""
    labels = np.array([photo.label for photo in gallery])
    order = np.argsort(labels, kind="stable")
    named, starts = np.unique(labels[order], return_index=True)
    places = dict(zip(named.tolist(), np.split(order, starts[1:]), strict=True))
    places[""] = nothing = np.empty(0, np.int64)
    return [places.get(photo.label, nothing) for photo in queries]


def _check(given: Vectors, metric: Metric, dimension: int) -> None:
    if given.vectors.shape != (len(given.photos), dimension):
        raise InvalidArgument(f"{len(given.photos):,} photos with vectors {given.vectors.shape}", field="vectors")
    squares = _squares(given.vectors)
    bad = ~np.isfinite(squares) if metric != "cosine" else ~(np.isfinite(squares) & (squares > 0))
    if bad.any():
        raise InvalidArgument(
            f"the vector of {given.photos[int(bad.argmax())].id} cannot be compared: it is zero or not finite",
            field="vectors",
        )


def _compared(queries: Floats, gallery: Floats, metric: Metric) -> _Compared:
    if metric == "inner_product":
        return _Compared(queries, gallery, lambda products: products)
    if metric == "cosine":
        shares = 1 / np.sqrt(_squares(gallery))
        unit = np.asarray(queries / np.sqrt(_squares(queries))[:, None], np.float32)
        return _Compared(unit, gallery, lambda products: np.multiply(products, shares, out=products))
    # q·g - g·g/2 is half of minus the squared distance, but for what is the same for all of the gallery. Nothing of the
    # precision is lost to a mean that all vectors share.
    mean = gallery.mean(axis=0)
    centred = gallery - mean
    halves = _squares(centred) / 2
    return _Compared(queries - mean, centred, lambda products: np.subtract(products, halves, out=products))


def _squares(vectors: Floats) -> Floats:
    found: Floats = np.einsum("nd,nd->n", vectors, vectors)
    return found


def _ranked(compared: _Compared, own: Sequence[int], relevant: Sequence[Ints]) -> list[_Found]:
    """What is found for the queries, block by block: a thread a core compares and sorts, each one for itself."""
    import torch  # its products were a quarter faster than NumPy's

    workers = torch.get_num_threads()
    rows = max(LEAST_ROWS, BLOCK_BYTES // (4 * len(compared.gallery) * workers))
    queries, gallery = (torch.from_numpy(np.require(each, np.float32, ["C", "W"])) for each in compared[:2])

    # A block made anew each time costs as much as a tenth of its products, in pages alone.
    free: SimpleQueue[torch.Tensor] = SimpleQueue()
    for _ in range(workers):
        free.put(torch.empty((min(rows, len(queries)), len(gallery))))

    def work(start: int) -> _Found:
        block = slice(start, start + rows)
        own_scores = free.get()
        part = queries[block]
        scores = torch.mm(part, gallery.T, out=own_scores[: len(part)]).numpy()
        wanted = [each[each != place] for each, place in zip(relevant[block], own[block], strict=True)]
        found = [_find(compared.finish(row), *each) for row, *each in zip(scores, own[block], wanted, strict=True)]
        ranks, tops, best = zip(*found, strict=True) if found else ((), (), ())
        counts = np.fromiter(map(len, wanted), np.int64)
        shape = len(found), min(SHOWN, len(gallery) - 1)
        places, firsts = np.array(tops, np.int64), np.array(best, np.float32)
        free.put(own_scores)
        return _Found(measure(ranks, counts), places.reshape(shape), firsts.reshape(shape))

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, range(0, max(1, len(queries)), rows)))


def _find(scores: Floats, own: int, relevant: Ints) -> tuple[Ints, Ints, Floats]:
    """The ranks of what is relevant, and the first of a ranking with their scores; its own place sinks to the end."""
    if own >= 0:
        scores[own] = -np.inf
    shown = min(SHOWN, len(scores) - 1)
    ascending = np.sort(scores)  # of floats alone: ten times as fast as an order
    first = np.flatnonzero(scores >= ascending[-shown])
    first = first[np.argsort(-scores[first], kind="stable")][:shown]
    wanted = np.sort(scores[relevant])
    below = ascending.searchsorted(wanted, "right")
    ranks = len(scores) - below + 1
    tied = np.unique(wanted[ascending[below - 2] == wanted])
    if len(tied) > FEW:
        order = np.empty(len(scores), np.int64)
        order[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return np.sort(order[relevant]), first, scores[first]
    for value in tied:
        ranks[wanted == value] += np.flatnonzero(np.isin(np.flatnonzero(scores == value), relevant))
    return np.sort(ranks), first, scores[first]
