"""The records of the demo: photos, and squares cut from them at several scales.

A record's place is its photo and the box it shows, so it is known which records show the same: two places are the
same when they are of one photo and their boxes overlap by half (intersection over union). Squares of one scale lie
a third of their side apart; so a square is just the same place as its neighbours left, right, above and below, but
not as the diagonal ones, nor as a square of the next scale inside it. Of 1,200 records about four are of any one
place: ten hits by chance would be right once in thirty times.
"""

import random
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, ImageStat

from vitrail.client.sources import Entry, Folder, printable

RECORDS = 1_200
ENOUGH_PHOTOS = 1_000
"""So many photos are records enough, without squares."""
LONGEST_SIDE = 1024
SMALLEST_SIDE = 64
PLAIN = 12.0
"""Below this standard deviation of its brightness (of 255), a picture is plain sky or shade: nothing in it says
where it was cut, so no query is made of it. It is a record like any other."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

# Left out of what the packages carry: textures (brick, grass, gravel, the moon), whose squares all look alike; the
# right half of a stereo pair, whose left half is there; drawings, text, and what a microscope saw through noise.
PACKAGED = {
    "skimage": (
        "data",
        (
            "astronaut.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


class MissingPackage(Exception):
    """A package whose photos are wanted is not installed."""


class Place(NamedTuple):
    """What a record shows: a box of a photo."""

    photo: str
    box: Box

    def same(self, other: "Place") -> bool:
        """Whether it is of one photo with another, and their boxes overlap by half."""
        return self.photo == other.photo and 2 * _overlap(self.box, other.box) >= _union(self.box, other.box)

    def middle(self, share: float) -> "Place":
        """What is left of it after a crop to the middle, `share` of each side."""
        left, top, right, bottom = self.box
        across, down = round((right - left) * (1 - share) / 2), round((bottom - top) * (1 - share) / 2)
        return Place(self.photo, (left + across, top + down, right - across, bottom - down))


def packaged_photos() -> dict[str, Path]:
    """Find the photos that came with packages, by name. Nothing is imported and nothing is downloaded.

    Raises:
        MissingPackage: One is not installed.
    """
    found: dict[str, Path] = {}
    for package, (folder, names) in PACKAGED.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingPackage(package)
        paths = (Path(spec.submodule_search_locations[0], folder, name) for name in names)
        found |= {path.stem: path for path in paths if path.exists()}
    return found


def photos_of(folder: Path) -> dict[str, Path]:
    """Find the image files of a folder, nested ones too, by their path below it."""
    found = (entry for entry in Folder(folder).find() if isinstance(entry, Entry))
    return {printable(entry.id): folder / entry.id for entry in found}


def write_photos(photos: Mapping[str, Path], folder: Path) -> Iterator[tuple[str, Place]]:
    """Write each photo, upright and no larger than needed, as a JPEG; gives the path below the folder, and its place.

    What cannot be read is left out.
    """
    for name, path in photos.items():
        try:
            photo = _load(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        yield _write(photo, folder, f"{name}/photo.jpg"), Place(name, (0, 0, *photo.size))


def write_squares(photos: Mapping[str, Place], folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Place]]:
    """Cut up to `count` squares from photos that `write_photos` wrote, and write them beside these."""
    chosen = choose_squares([place.box[2:] for place in photos.values()], count, seed)
    for (path, whole), boxes in zip(photos.items(), chosen, strict=True):
        with Image.open(folder / path) as photo:
            for box in boxes:
                left, top, right, _ = box
                name = f"{whole.photo}/{left}-{top}-{right - left}.jpg"
                yield _write(photo.crop(box), folder, name), Place(whole.photo, box)


def choose_squares(sizes: list[tuple[int, int]], count: int, seed: int = 0) -> list[list[Box]]:
    """Choose squares for photos of these sizes, the larger ones first, until there are `count`.

    Of the last scale only as many as are wanted, spread over all photos by chance.
    """
    chosen: list[list[Box]] = [[] for _ in sizes]
    parts = 2
    while layer := [(index, box) for index, size in enumerate(sizes) for box in squares(size, parts)]:
        kept = layer if len(layer) <= count else random.Random(seed).sample(layer, count)
        for index, box in sorted(kept):
            chosen[index].append(box)
        count -= len(kept)
        parts += 1
    return chosen


def squares(size: tuple[int, int], parts: int) -> list[Box]:
    """Lay a grid of squares whose side is the short side over `parts`, a third of it apart, in the middle."""
    width, height = size
    step = min(size) // parts // 3
    side = 3 * step  # a multiple of three, so that neighbours overlap by half exactly
    if side < SMALLEST_SIDE:
        return []
    lefts, tops = _starts(width, side, step), _starts(height, side, step)
    return [(left, top, left + side, top + side) for top in tops for left in lefts]


def is_plain(photo: Image.Image) -> bool:
    """Whether there is too little in a picture to tell it from others."""
    return ImageStat.Stat(photo.convert("L")).stddev[0] < PLAIN


def spread(places: Mapping[str, Place], seed: int = 0) -> Iterator[str]:
    """All records in random order, but from one photo after another in turn."""
    chance = random.Random(seed)
    by_photo: dict[str, list[str]] = {}
    for name, place in places.items():
        by_photo.setdefault(place.photo, []).append(name)
    piles = list(by_photo.values())
    chance.shuffle(piles)
    for pile in piles:
        chance.shuffle(pile)
    while piles:
        yield from (pile.pop() for pile in piles)
        piles = [pile for pile in piles if pile]


def _load(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return photo


def _write(photo: Image.Image, folder: Path, name: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, "JPEG", quality=92)
    return name


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where squares begin along a side, what is left over shared by both ends."""
    first = (length - side) % step // 2
    return list(range(first, length - side + 1, step))


def _overlap(one: Box, other: Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _union(one: Box, other: Box) -> int:
    return _area(one) + _area(other) - _overlap(one, other)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
