"""Batches of augmented photos: which ones they are follows from the seed alone, so a run can go on anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from vitrail.client import FileError, InvalidArgument
from vitrail.client.sources import Source
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.training.augmentation import Augmentation
from vitrail.training.photos import Photo


class Draw(NamedTuple):
    """One photo in one batch."""

    photo: int
    seed: int
    """Of its augmentation."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which photos are in which batch, for all epochs."""

    classes: Sequence[int]
    """The number of each photo's class."""
    batch: int
    per_class: int
    """Photos of a class that come together."""
    seed: int

    @property
    def steps(self) -> int:
        """Batches an epoch: what is left over waits for the next one, whose order is another."""
        together = sum(-(-count // self.per_class) for count in np.bincount(self.classes))
        return max(1, int(together) // self._groups)

    def batches(self, epoch: int) -> Iterator[list[Draw]]:
        """The batches of an epoch. Each photo is drawn once, but in a class with too few, some are drawn again."""
        random = np.random.default_rng([self.seed, epoch])
        groups: list[np.ndarray[tuple[int], np.dtype[np.intp]]] = []
        for number in np.unique(self.classes):
            photos = random.permutation(np.flatnonzero(np.asarray(self.classes) == number))
            groups += np.resize(photos, (-(-len(photos) // self.per_class), self.per_class)).tolist()
        order = random.permutation(len(groups))
        for step in range(self.steps):
            drawn = [photo for group in order[step * self._groups :][: self._groups] for photo in groups[group]]
            yield [Draw(photo, int(random.integers(2**63))) for photo in drawn]

    def after(self, step: int, epochs: int) -> Iterator[list[Draw]]:
        """All batches from one on, counted from the first of the first epoch."""
        for epoch in range(step // self.steps, epochs):
            for number, batch in enumerate(self.batches(epoch), epoch * self.steps):
                if number >= step:
                    yield batch

    @property
    def _groups(self) -> int:
        return max(1, self.batch // self.per_class)


class Batch(NamedTuple):
    """Photos that could be decoded, and why the others could not."""

    photos: Sequence[Photo]
    pixels: torch.Tensor
    """uint8 [n, side, side, 3]"""
    failed: Sequence[FileError]


@dataclass(frozen=True, slots=True)
class Augmented:
    """A data set of torch's, whose index is a `Draw`."""

    source: Source
    photos: Sequence[Photo]
    preprocessing: Preprocessing
    augment: Augmentation

    def __getitem__(self, draw: Draw) -> tuple[Photo, torch.Tensor | FileError]:
        photo = self.photos[draw.photo]
        recipe = self.preprocessing
        # Whoever draws this photo, in whichever process, draws the same pixels, and nobody else's numbers.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            try:
                image = decode(self.source.read(photo.id), ImageLimits(), recipe.target, background=recipe.background)
            except (OSError, InvalidArgument) as error:
                return photo, FileError(self.source.shown(photo.id), str(error))
            return photo, self.augment(image)


def collate(found: Sequence[tuple[Photo, torch.Tensor | FileError]]) -> Batch:
    """One batch of what a data set gave."""
    good = [(photo, pixels) for photo, pixels in found if isinstance(pixels, torch.Tensor)]
    pixels = torch.stack([pixels for _, pixels in good]) if good else torch.empty(0, dtype=torch.uint8)
    return Batch([photo for photo, _ in good], pixels, [each for _, each in found if isinstance(each, FileError)])


def load(photos: Augmented, draws: Iterator[list[Draw]], workers: int) -> Iterator[Batch]:
    """Batches in their order, made by so many processes; by this one with 0."""
    # A fork would copy the locks of threads that run here, as a progress bar's and OpenMP's.
    context = "spawn" if workers else None
    return iter(
        DataLoader(
            photos,  # type: ignore[arg-type] # its index is no number
            batch_sampler=draws,
            num_workers=workers,
            collate_fn=collate,
            multiprocessing_context=context,
        )
    )
