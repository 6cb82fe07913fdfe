"""What is in a set of photos, and what of it harms those who learn from it or measure on it."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitrail.client import FileError
from vitrail.client.sources import Source
from vitrail.server.embedders.network import Floats
from vitrail.training.duplicates import NEIGHBOURS, Group, Neighbours, groups, nearest, unique
from vitrail.training.files import Seen
from vitrail.training.photos import Photo, Split

OUTLYING = 3.5
"""Robust standard deviations below the median (Iglewicz and Hoaglin 1993)."""
TO_SIGMA = 1.4826
"""Of a median absolute deviation, were they normal."""
LEAST_OUTLYING = 20
"""Of fewer photos nobody can say what is usual."""
KEPT_FIRST: Sequence[Split] = ("test", "validation", "train", "")
"""In which split a picture stays that is in several: what one reports on changes last."""


class Outlier(NamedTuple):
    photo: Photo
    cosine: float
    """To its nearest others, in the mean."""


class Left(NamedTuple):
    """A photo that a clean table leaves out."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Attributes:
        seen: The photos that can be decoded, by id.
        failed: Those that cannot, and folders that cannot be read, and why.
        groups: Photos of one picture, largest first.
        outliers: Photos that are like no others, the strangest first.
    """

    seen: Sequence[Seen]
    failed: Sequence[FileError]
    groups: Sequence[Group]
    outliers: Sequence[Outlier]

    @property
    def across(self) -> list[Group]:
        """Pictures that are in more than one split."""
        return [group for group in self.groups if len(group.splits) > 1]

    @property
    def conflicts(self) -> list[Group]:
        """Pictures that have more than one label."""
        return [group for group in self.groups if len(group.labels) > 1]

    @property
    def copies(self) -> int:
        """Photos of pictures that another photo shows already."""
        return sum(len(group.photos) - 1 for group in self.groups)

    def grouped(self) -> list[Photo]:
        """The photos that can be decoded, each with its group."""
        numbers = {photo.id: str(number) for number, group in enumerate(self.groups, 1) for photo in group.photos}
        return [each.photo._replace(group=numbers.get(each.photo.id, "")) for each in self.seen]

    def left(self) -> list[Left]:
        """What is bad of them: pictures of two labels, and copies of others; never what is merely rare."""
        left = []
        for group in self.groups:
            first = min(group.photos, key=lambda photo: (KEPT_FIRST.index(photo.split), not photo.label, photo.id))
            if len(group.labels) > 1:
                left += [Left(photo.id, f"one picture is {' and '.join(group.labels)}") for photo in group.photos]
            else:
                left += [Left(photo.id, f"shows what {first.id} shows") for photo in group.photos if photo != first]
        return sorted(left)


def examine(
    source: Source,
    seen: Sequence[Seen],
    failed: Sequence[FileError],
    vectors: Floats,
    shown: Callable[[int], None] = lambda done: None,
) -> Findings:
    """Look for duplicates and outliers.

    Args:
        source: Where the photos are.
        seen: Those that can be decoded, by id.
        failed: What cannot be.
        vectors: float32 [n, d], theirs.
        shown: Is told what share of this is done, in percent.
    """
    rows = unique(seen)
    near = nearest(vectors[rows], NEIGHBOURS, lambda done: shown(50 * done // len(rows)))
    found = groups(source, seen, near, lambda done: shown(50 + done // 2))
    shown(100)
    found.sort(key=lambda group: (-len(group.photos), group.photos[0].id))
    return Findings(seen, failed, found, _outliers([seen[row].photo for row in rows], near))


def _outliers(photos: Sequence[Photo], near: Neighbours) -> list[Outlier]:
    if len(photos) < LEAST_OUTLYING:
        return []
    cosines = near.cosines.mean(axis=1)
    median = np.median(cosines)
    least = median - OUTLYING * TO_SIGMA * np.median(np.abs(cosines - median))
    return [Outlier(photos[row], float(cosines[row])) for row in np.argsort(cosines) if cosines[row] < least]


def counts(photos: Sequence[Photo]) -> dict[str, Counter[str]]:
    """How many photos of each label are in each split."""
    found: dict[str, Counter[str]] = {}
    for photo in sorted(photos, key=lambda photo: photo.label):
        found.setdefault(photo.label, Counter())[photo.split] += 1
    return found


def sizes(seen: Sequence[Seen]) -> dict[str, tuple[int, float, int]]:
    """The least, the median and the most of what measures a photo."""
    measured = {
        "width": [each.width for each in seen],
        "height": [each.height for each in seen],
        "bytes": [each.bytes for each in seen],
    }
    return {name: (min(all), statistics.median(all), max(all)) for name, all in measured.items() if all}


def warnings(photos: Sequence[Photo]) -> list[str]:
    """What of their labels is not enough to learn from or to measure with."""
    labels = Counter(photo.label for photo in photos)
    said = []
    if labels[""]:
        said.append(f"{labels.pop(''):,} photos have no label")
    if len(labels) == 1:
        said.append(f"all labels are {next(iter(labels))!r}: there is nothing to tell apart")
    single = sorted(label for label, count in labels.items() if count == 1)
    if single:
        more = f" and {len(single) - 5:,} more" if len(single) > 5 else ""
        said.append(f"labels of one photo, which has no other to be found by: {', '.join(single[:5])}{more}")
    return said
