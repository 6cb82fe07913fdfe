"""What embedders cost and are worth, beside each other: bytes, images a second, and how well they retrieve."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.client import FileError, InvalidArgument
from vitrail.server.embedders.base import Embedder
from vitrail.server.embedders.exportable import exportable
from vitrail.server.embedders.network import Pixels
from vitrail.training.photos import Photos
from vitrail.training.ranking import evaluate
from vitrail.training.vectors import Vectors, pixels_of, workers_of

TIMED = 32
"""Photos of a turn."""
TURNS = 5


class Quality(NamedTuple):
    """Means over the queries that have something relevant in the gallery; NaN where none has."""

    precision_at_10: float
    mean_average_precision: float
    recall_at_1: float
    """The share of queries whose first hit is relevant."""


def quality(embedder: Embedder, queries: Vectors, gallery: Vectors) -> Quality:
    """How well an embedder's vectors retrieve photos of the same label."""
    measures = evaluate(queries, gallery, "cosine" if embedder.normalised else "euclidean").measures
    return Quality(*(measures.mean(name) for name in ("P@10", "AP", "hit@1")))


def size(name: str) -> int:
    """Bytes of an embedder: of its file, or else of its tensors."""
    kind, _, path = name.partition(":")
    if kind in ("file", "onnx"):
        return Path(path).stat().st_size
    return sum(tensor.nbytes for tensor in exportable(name).backbone.model.state_dict().values())


def rates(embedders: Sequence[Embedder], photos: Photos) -> list[float]:
    """Photos a second that each embeds, decoded before, as a server does it on this machine: the best of some turns."""
    loads = [(workers_of(embedder), some_pixels(embedder, photos, TIMED)) for embedder in embedders]
    best = [0.0] * len(loads)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for turn in range(1 + TURNS):
            for place, (workers, pixels) in enumerate(loads):
                parts = np.array_split(pixels, min(len(workers), len(pixels)))
                start = time.perf_counter()
                list(pool.map(lambda work, part: work(part), workers, parts))
                if turn:  # what the first one prepares is no part of it
                    best[place] = max(best[place], len(pixels) / (time.perf_counter() - start))
    return best


def some_pixels(embedder: Embedder, photos: Photos, count: int) -> Pixels:
    """Photos from all over, uint8 [n, side, side, 3], as an embedder sees them, but for those that cannot be decoded.

    Raises:
        InvalidArgument: None of them can be decoded.
    """
    some = photos.all[:: -(-len(photos.all) // count) or 1]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(lambda photo: pixels_of(embedder, photos.source, photo), some))
    good = [each for each in found if not isinstance(each, FileError)]
    if not good:
        raise InvalidArgument(f"none of {len(some):,} photos can be decoded", field="photos")
    return np.stack(good)
