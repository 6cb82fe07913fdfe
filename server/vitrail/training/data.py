"""What a model is trained on: labelled photos of two splits, enough of them to learn from."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.client import InvalidArgument
from vitrail.training.photos import Photos


@dataclass(frozen=True, slots=True)
class Data:
    """Photos to learn from, and those to choose by."""

    train: Photos
    validation: Photos
    classes: Sequence[str]
    table: str
    """SHA-256 of all of them, their labels and splits."""

    @classmethod
    def of(cls, photos: Photos) -> "Data":
        """What can be used of photos.

        Raises:
            InvalidArgument: Nothing can be learned from these.
        """
        train, validation = (
            Photos(photos.source, [photo for photo in photos.of(split).all if photo.label])
            for split in ("train", "validation")
        )
        for split, part in (("train", train), ("validation", validation)):
            if not part.all:
                raise InvalidArgument(f"no labelled photo is in the {split} split: `vitrail dataset` makes splits")
        classes = sorted({photo.label for photo in train.all})
        if len(classes) < 2:
            raise InvalidArgument(f"all photos show {classes[0]!r}: nothing can be told apart", field="label")
        if max(Counter(photo.label for photo in validation.all).values()) < 2:
            raise InvalidArgument("no two photos of the validation split show the same", field="label")
        rows = json.dumps([*train.all, *validation.all])
        return cls(train, validation, classes, hashlib.sha256(rows.encode()).hexdigest())
