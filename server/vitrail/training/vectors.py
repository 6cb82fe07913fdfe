"""Vectors of many photos, without a server: decoded in threads while the model works on those before."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from typing import NamedTuple

import numpy as np

from vitrail.client import FileError, InvalidArgument
from vitrail.client.sources import Source
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.base import Embedder, Replicated
from vitrail.server.embedders.network import Floats, Pixels
from vitrail.training.photos import Photo, Photos, Split

AT_ONCE = 64


class Vectors(NamedTuple):
    """Of the photos that could be decoded, in their order, and why the others could not."""

    photos: Sequence[Photo]
    vectors: Floats
    """float32 [n, d]"""
    failed: Sequence[FileError] = ()

    def of(self, *splits: Split) -> "Vectors":
        """Those of some splits."""
        wanted = [photo.split in splits for photo in self.photos]
        return Vectors(list(compress(self.photos, wanted)), self.vectors[np.array(wanted, bool)], self.failed)


def embed(embedder: Embedder, photos: Photos, shown: Callable[[int], None] = lambda done: None) -> Vectors:
    """Embed photos; `shown` is told how many are done."""
    workers = workers_of(embedder)
    kept: list[Photo] = []
    vectors = [np.empty((0, embedder.dimension), np.float32)]
    failed: list[FileError] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as decoding, ThreadPoolExecutor(len(workers)) as embedding:
        ahead: Iterable[Pixels | FileError] = ()
        for done, ahead_of in _turns(photos.all):
            now, ahead = ahead, decoding.map(lambda photo: pixels_of(embedder, photos.source, photo), ahead_of)
            good = []
            for photo, pixels in zip(done, now, strict=True):
                if isinstance(pixels, FileError):
                    failed.append(pixels)
                else:
                    kept.append(photo)
                    good.append(pixels)
            if good:
                parts = np.array_split(np.stack(good), min(len(workers), len(good)))
                vectors += embedding.map(lambda work, part: work(part), workers, parts)
            shown(len(kept) + len(failed))
    return Vectors(kept, np.concatenate(vectors), failed)


def workers_of(embedder: Embedder) -> Sequence[Callable[[Pixels], Floats]]:
    """What embeds pixels uint8 [n, side, side, 3], each for one thread at a time."""
    return embedder.copies() if isinstance(embedder, Replicated) else [embedder.embed]


def pixels_of(embedder: Embedder, source: Source, photo: Photo) -> Pixels | FileError:
    """A photo as the model sees it, uint8 [side, side, 3], or why it cannot be seen."""
    recipe = embedder.preprocessing
    try:
        image = decode(source.read(photo.id), ImageLimits(), recipe.target, background=recipe.background)
    except (OSError, InvalidArgument) as error:
        return FileError(source.shown(photo.id), str(error))
    return recipe.apply(image)


def _turns(photos: Sequence[Photo]) -> Iterator[tuple[Sequence[Photo], Sequence[Photo]]]:
    """Those whose pixels are to be embedded now, and those to be decoded meanwhile."""
    for start in range(0, len(photos) + AT_ONCE, AT_ONCE):
        yield photos[max(0, start - AT_ONCE) : start], photos[start : start + AT_ONCE]
