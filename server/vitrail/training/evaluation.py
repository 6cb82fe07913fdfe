"""Models on the same queries: what `vitrail evaluate` reports, where it asks no server."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Literal, NamedTuple, get_args

import numpy as np

from vitrail.client import FileError, InvalidArgument
from vitrail.client.sources import Source
from vitrail.server.embedders.exported import fit_projection
from vitrail.training.pairs import Pairs, of_pairs
from vitrail.training.photos import Photo, Photos, Split
from vitrail.training.ranking import Metric, PerQuery, evaluate
from vitrail.training.summary import MEASURES
from vitrail.training.vectors import Vectors

Measure = Literal[Metric, "mahalanobis"]
MEASURED: Sequence[Measure] = get_args(Measure)
LISTED = 10


class Run(NamedTuple):
    """What one model, or one way to search, found."""

    name: str
    found: PerQuery


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Runs of the same queries against the same gallery."""

    runs: Sequence[Run]
    metric: str
    measures: Sequence[str]
    """Those that the rankings are deep enough for."""
    depth: int | None
    """So many of each ranking are known; None where all of it is."""
    notes: Sequence[str]
    """What is to be known of the figures."""
    failed: Sequence[FileError]
    picture: Callable[[Photo], bytes | None]
    """The photo as a file, where it can be had."""


def offline(
    photos: Photos,
    embedded: Callable[[Photos], Iterable[tuple[str, Vectors]]],
    metric: Measure = "cosine",
    queries: Split | None = None,
    gallery: Sequence[Split] = (),
    pairs: Pairs | None = None,
) -> Evaluation:
    """Search with the photos of a split for all photos, by the vectors of each model.

    Args:
        photos: What there is.
        embedded: Gives the names of models, and the vectors that they make of photos.
        metric: How vectors compare; "mahalanobis" is Euclidean after whitening, fitted to the photos of the split
            "train", or to all where there is none.
        queries: Which split to search with: "test" if not given, or all photos where there is none.
        gallery: Which splits to search, all if not given.
        pairs: What is relevant, instead of the photos of the same label; its queries are then those.

    Raises:
        InvalidArgument: No figure would say anything: says why.
    """
    searched = set((photos.of(*gallery) if gallery else photos).all)
    asked = set(photos.of(queries or "test").all) or (set() if queries else searched)
    if pairs is not None:
        asked = {photo for photo in photos.all if photo.id in pairs.relevant}
        pairs.check({photo.id for photo in asked | searched})
    else:
        check_labels(photo.label for photo in searched)
    if not asked:
        raise InvalidArgument(f"no photo is in the split {queries!r}", field="queries")
    runs, failed = [], {error.path: error for error in photos.unread}
    made = list(embedded(Photos(photos.source, sorted(asked | searched))))
    for _, vectors in made:
        failed |= {error.path: error for error in vectors.failed}
    read = set.intersection(*(set(vectors.photos) for _, vectors in made))  # by all models: they have the same task
    if not read:
        first = next(iter(failed.values()))
        raise InvalidArgument(f"no photo can be read; {first.path}: {first.message}", field="photos")
    for name, vectors in made:
        compared = whitened(vectors) if metric == "mahalanobis" else vectors
        left, right = chosen(compared, asked & read), chosen(compared, searched & read)
        relevant = None if pairs is None else of_pairs(pairs, left.photos, right.photos)
        kind: Metric = "euclidean" if metric == "mahalanobis" else metric
        runs.append(Run(name, evaluate(left, right, kind, relevant)))
    notes = left_out(runs[0].found)
    return Evaluation(runs, metric, MEASURES, None, notes, [*failed.values()], partial(read_photo, photos.source))


def chosen(vectors: Vectors, photos: Container[Photo]) -> Vectors:
    """Those of some photos."""
    wanted = [photo in photos for photo in vectors.photos]
    return Vectors([*compress(vectors.photos, wanted)], vectors.vectors[np.array(wanted, bool)])


def whitened(vectors: Vectors) -> Vectors:
    """Vectors whose Euclidean distances are Mahalanobis distances between those given."""
    fitted = vectors.of("train").vectors if vectors.of("train").photos else vectors.vectors
    if len(fitted) < 2:
        raise InvalidArgument("whitening needs two photos of the split 'train' at least", field="metric")
    # A direction in which nothing differs is none: whitened, it would be noise.
    varying = np.linalg.eigvalsh(np.cov(fitted.T.astype(float)))
    rank = min(int((varying > 1e-6 * varying[-1]).sum()), len(fitted) - 1)
    projection = fit_projection(fitted, rank, whiten=True)
    whitened = np.asarray((vectors.vectors - projection.mean) @ projection.matrix, np.float32)
    return Vectors(vectors.photos, whitened, vectors.failed)


def check_labels(labels: Iterable[str]) -> None:
    """See that labels say which photos belong together.

    Raises:
        InvalidArgument: There are none, or there is one alone.
    """
    found = set(labels) - {""}
    if len(found) < 2:
        why = f"all photos show {found.pop()!r}: whatever is found is right" if found else "no photo has a label"
        raise InvalidArgument(why, field="label")


def left_out(found: PerQuery) -> list[str]:
    """What is to be said of queries that no mean counts."""
    labels = [photo.label for photo, count in zip(found.queries, found.measures.relevant, strict=True) if not count]
    if not labels:
        return []
    shown = ", ".join(repr(label) for label, _ in Counter(labels).most_common(LISTED) if label)
    named = f" (of {shown})" if shown else ""
    return [f"{len(labels):,} queries have nothing relevant in the gallery{named}: they do not count"]


def read_photo(source: Source, photo: Photo) -> bytes | None:
    """A photo as a file; None where it cannot be read."""
    try:
        return source.read(photo.id)
    except OSError:
        return None
