"""Real photos and real vectors for benchmarks."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from tests.e2e.photos import jpeg, tiles
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedder import EfficientNetLite0

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "clothing"
BATCH = 8
CELLS = 49
"""The last feature map of one photo has 7 × 7 cells, each a local descriptor of 1,280 components."""


def encoded(folder: Path | None, count: int, split: str) -> list[bytes]:
    """JPEGs of a folder, or of the split of the clothing photos, or of tiles of packaged photos."""
    root = folder or (SHARED / split if SHARED.exists() else None)
    if root is None:
        return [jpeg(tile) for _, tile in islice(tiles(96), count)]
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    picked = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[place].read_bytes() for place in picked]


def cells(embedder: EfficientNetLite0, images: list[bytes]) -> NDArray[np.float32]:
    """Unit vectors float32 [49 × images, 1280]: every cell of every photo's last feature map."""
    import torch

    network = embedder.load()
    rows = []
    for batch in track(list(_batches(images)), description="vectors from photos"):
        pixels = np.stack([embedder.preprocess(decode(image, ImageLimits(), embedder.resize)) for image in batch])
        with torch.inference_mode():
            features = network.features(pixels).float()
        rows.append(features.flatten(2).transpose(1, 2).reshape(-1, embedder.dimension).numpy())
    vectors = np.concatenate(rows)
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def made(cache: Path, folder: Path | None, count: int, queries: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`count` vectors to index and `queries` from other photos, kept in `cache`."""
    path = cache / f"cells-{count}-{queries}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        embedder = EfficientNetLite0(threads=2)
        photos = encoded(folder, -(-count // CELLS) + -(-queries // 4), "train")
        held_out = -(-queries // 4)
        random = np.random.default_rng(1)
        base = random.permutation(cells(embedder, photos[held_out:]))[:count]
        asked = random.permutation(cells(embedder, photos[:held_out]))[:queries]
        np.savez(path, base=base, asked=asked)
    held = np.load(path)
    return held["base"], held["asked"]


def _batches(images: list[bytes]) -> Iterator[list[bytes]]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def reencoded(images: list[bytes], folder: Path, prefix: str = "") -> None:
    """Write JPEGs into a folder under numbered names."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / f"{prefix}{number:05}.jpg").write_bytes(image)


def opened(image: bytes) -> Image.Image:
    return decode(image, ImageLimits(), 256)
