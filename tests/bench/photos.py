"""Real photos and real vectors for benchmarks."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.progress import track

from tests.e2e.photos import jpeg, tiles
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.efficientnet import EfficientNetLite0

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "clothing"
BATCH = 8
CELLS = 49
"""The last feature map of one photo has 7 × 7 cells, each a local descriptor of 1,280 components."""
SMALLEST_CROP = 0.4
"""Of each side: crops of less blow up few pixels to a whole input."""


def encoded(folder: Path | None, count: int, *splits: str) -> list[bytes]:
    """JPEGs of a folder, or of splits of the clothing photos, or of tiles of packaged photos."""
    if folder is None and not SHARED.exists():
        return [jpeg(tile) for _, tile in islice(tiles(96), count)]
    roots = [folder] if folder else [SHARED / split for split in splits]
    files = (path for root in roots for path in root.rglob("*"))
    paths = sorted(path for path in files if path.suffix.lower() in (".jpg", ".jpeg"))
    picked = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[place].read_bytes() for place in picked]


def made(cache: Path, folder: Path | None, count: int, queries: int) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """`count` unit vectors to index, as a memory map, and `queries` of photos none of whose views are among them.

    They are the cells of feature maps: of every photo as it is, then flipped, then of as many crops as it takes, so
    that 3,400 photos give millions. They are in random order, and are kept in `cache`.
    """
    name = f"{folder.name if folder else 'cells'}-{count}-{queries}"
    base, asked = cache / f"{name}.npy", cache / f"{name}-queries.npy"
    if not base.exists():
        cache.mkdir(parents=True, exist_ok=True)
        embedder = EfficientNetLite0(threads=2)
        photos, others = _apart(folder, count, queries)
        if CELLS * len(others) < queries:
            raise ValueError(f"{len(others)} photos are too few for {queries:,} queries")
        _write(asked, embedder, others, len(others), queries)
        _write(base, embedder, photos, -(-count // CELLS), count)
    return np.load(base, mmap_mode="r"), np.load(asked).astype(np.float32)


def _apart(folder: Path | None, count: int, queries: int) -> tuple[list[bytes], list[bytes]]:
    """Photos to index and photos to ask with."""
    wanted, held_out = -(-count // CELLS), -(-queries // 4)
    if folder is None and SHARED.exists():
        return encoded(None, wanted, "train", "validation"), encoded(None, held_out, "test")
    photos = encoded(folder, wanted + held_out)
    held_out = min(held_out, -(-len(photos) // 4))
    return photos[held_out:], photos[:held_out]


def _write(path: Path, embedder: EfficientNetLite0, photos: list[bytes], views: int, count: int) -> None:
    """A file of `count` of the cells of so many views, in random order; it is there only when it is whole."""
    network = embedder.load()
    places = np.random.default_rng(1).permutation(views * CELLS)
    partial = path.with_suffix(".partial")
    vectors = open_memmap(partial, mode="w+", dtype=np.float16, shape=(count, embedder.dimension))
    pixels = (embedder.preprocessing.apply(view) for view in _views(photos, views, embedder.preprocessing.target))
    for start in track(range(0, views, BATCH), description=f"vectors for {path.name}"):
        cells = _cells(network, np.stack(list(islice(pixels, BATCH))))
        rows = places[start * CELLS :][: len(cells)]
        vectors[rows[rows < count]] = cells[rows < count]
    vectors.flush()
    partial.rename(path)


def _cells(network: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors float32 [49 × photos, 1280]: every cell of every photo's last feature map.

    A cell without any feature (one in a million) has no direction, so it gets the mean of its photo's.
    """
    import torch

    with torch.inference_mode():
        features = network.features(pixels).float()
        features += (features == 0).all(1, keepdim=True) * features.mean((2, 3), keepdim=True)
        cells: NDArray[np.float32] = torch.nn.functional.normalize(features).permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return cells


def _views(photos: list[bytes], count: int, resize: int) -> Iterator[Image.Image]:
    """So many views, from each photo as many as from any other, or one fewer."""
    for number, photo in enumerate(photos):
        image, chance = decode(photo, ImageLimits(), resize), random.Random(number)
        for view in range(-(-(count - number) // len(photos))):
            yield image if view == 0 else ImageOps.mirror(image) if view == 1 else _crop(image, chance)


def _crop(image: Image.Image, chance: random.Random) -> Image.Image:
    """A piece of random size at a random place, flipped or not."""
    scale = chance.uniform(SMALLEST_CROP, 0.9)
    width, height = round(scale * image.width), round(scale * image.height)
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    piece = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(piece) if chance.random() < 0.5 else piece


def reencoded(images: list[bytes], folder: Path, prefix: str = "") -> None:
    """Write JPEGs into a folder under numbered names."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / f"{prefix}{number:05}.jpg").write_bytes(image)


def opened(image: bytes) -> Image.Image:
    return decode(image, ImageLimits(), 256)
