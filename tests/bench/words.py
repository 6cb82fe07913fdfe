"""Searching with words: precision at 10 for the ten classes of the clothing photos, beside chance.

    python -m tests.bench.words [--photos ../shared/data/clothing]

Every photo is decoded and embedded by the default embedder, every class is asked for in words, and the ten nearest
photos by cosine are looked at. A photo is right when it lies in the class's folder.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vitrail.cli.common import print_table
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Floats, Pixels

WORDS = {
    "dress": "a dress",
    "hat": "a hat",
    "longsleeve": "a long sleeve shirt",
    "outwear": "a coat or jacket",
    "pants": "a pair of pants",
    "shirt": "a shirt",
    "shoes": "a pair of shoes",
    "shorts": "a pair of shorts",
    "skirt": "a skirt",
    "t-shirt": "a t-shirt",
}
THREADS, BATCH, TOP = 2, 64, 10


def embedded(embedder: EfficientNetLite0, files: Sequence[Path]) -> Floats:
    """Unit vectors of photos, [n, d]."""

    def pixels(path: Path) -> Pixels:
        preprocessing = embedder.preprocessing
        return preprocessing.apply(decode(path.read_bytes(), ImageLimits(), preprocessing.target))

    with ThreadPoolExecutor(THREADS) as pool:
        batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
        return np.concatenate([embedder.embed(np.stack(list(pool.map(pixels, batch)))) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/clothing"))
    files = sorted(parser.parse_args().photos.rglob("*.jpg"))
    labels = np.array([path.parent.name for path in files])
    embedder = EfficientNetLite0(THREADS)
    vectors, words = embedded(embedder, files), embedder.embed_texts(list(WORDS.values()))
    nearest = np.argsort(-(words @ vectors.T), axis=1)[:, :TOP]
    right = {name: float(np.mean(labels[rows] == name)) for name, rows in zip(WORDS, nearest, strict=True)}
    rows = [(WORDS[name], share, float(np.mean(labels == name))) for name, share in right.items()]
    mean = ("mean", float(np.mean(list(right.values()))), 1 / len(WORDS))
    print_table(["words", f"P@{TOP}", "chance"], [*rows, mean], title=f"{len(files):,} photos, {embedder.space}")


if __name__ == "__main__":
    main()
