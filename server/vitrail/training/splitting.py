"""Which photos to learn from, to choose by, and to report on: by label, and never one picture in two splits."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vitrail.client import InvalidArgument
from vitrail.training.photos import Photo, Split

LEAST = 3
"""Pictures of a label, one a split; of fewer all are learnt from."""


class Shares(NamedTuple):
    """Of the pictures of each label."""

    train: float = 0.7
    validation: float = 0.15
    test: float = 0.15


def shares(text: str) -> Shares:
    """Read three shares, as "0.7,0.15,0.15".

    Raises:
        InvalidArgument: These are no such shares.
    """
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        train = validation = test = 0.0
    if not (min(train, validation, test) > 0 and abs(train + validation + test - 1) < 1e-6):
        raise InvalidArgument(
            f"{text!r} are not three shares above 0 that make 1: train,validation,test", field="split"
        )
    return Shares(train, validation, test)


def split(photos: Sequence[Photo], shares: Shares, seed: int) -> list[Photo]:
    """Give each photo its split; the same photos and seed make the same one again.

    A label gets its share of each split, rounded, and one picture at least where it has three. The photos of a group go
    together, with the label that most of them have.
    """
    pictures: dict[str, list[Photo]] = defaultdict(list)
    for photo in sorted(photos):
        pictures[f"group {photo.group}" if photo.group else f"photo {photo.id}"].append(photo)
    labels: dict[str, list[list[Photo]]] = defaultdict(list)
    for same in pictures.values():
        labels[_most(photo.label for photo in same)].append(same)
    chance = np.random.default_rng(seed)
    made: list[Photo] = []
    for _, of_label in sorted(labels.items()):
        names = _names(len(of_label), shares)
        for place, name in zip(chance.permutation(len(of_label)), names, strict=True):
            made += [photo._replace(split=name) for photo in of_label[place]]
    return sorted(made)


def _names(count: int, shares: Shares) -> list[Split]:
    test, validation = (
        max(1, round(count * share)) if count >= LEAST else 0 for share in (shares.test, shares.validation)
    )
    parts: dict[Split, int] = {"train": max(1, count - test - validation), "test": test, "validation": validation}
    return [name for name, part in parts.items() for _ in range(part)][:count]


def _most(labels: Iterable[str]) -> str:
    found = list(labels)
    return max(sorted(set(found)), key=found.count)
