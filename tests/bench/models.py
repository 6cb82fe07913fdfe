"""What each step of docs/training.md is worth: quality, speed and bytes of the models that it makes, side by side.

    python -m tests.bench.models FOLDER --work DIR [--out docs/training-table.md]

FOLDER has train, validation and test. Photos of test are searched among all photos, each without itself. What is in DIR
already is not made again.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from tests.bench.report import Section, show, write
from vitrail.server.embedders.base import Embedder
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.names import make
from vitrail.training.comparing import Quality, quality, rates, size
from vitrail.training.photos import Photos, read_photos
from vitrail.training.vectors import embed

DIMENSION = 128
SHORT = 64
SMALL = f"{EfficientNetLite0.name}?side=160"
COLUMNS = ("", "P@10", "mAP", "R@1", "images/s", "bytes")


class Model(NamedTuple):
    """One row."""

    title: str
    embedder: str


def models(folder: Path, work: Path) -> Iterator[Model]:
    """Make them all."""
    tuned, own = work / "tuned" / "model.safetensors", EfficientNetLite0.name
    yield Model("pretrained", own)
    white = _made(work / "white.safetensors", "project", folder / "train", "--dimension", DIMENSION, "--whiten")
    yield Model(f"whitened, {DIMENSION} dimensions", f"file:{white}")
    _vitrail("train", folder, "--out", tuned.parent)
    yield Model("fine-tuned", f"file:{tuned}")
    of_tuned = "--embedder", f"file:{tuned}"
    white = _made(
        work / "both.safetensors", "project", folder / "train", *of_tuned, "--dimension", DIMENSION, "--whiten"
    )
    yield Model(f"fine-tuned, whitened, {DIMENSION} dimensions", f"file:{white}")
    short = _made(work / "short.safetensors", "project", folder, *of_tuned, "--dimension", SHORT)
    yield Model(f"fine-tuned, {SHORT} dimensions", f"file:{short}")
    half = _made(work / "half.safetensors", "quantize", folder, *of_tuned)
    yield Model("fine-tuned, half precision", f"file:{half}")
    int8 = _made(work / "int8.onnx", "quantize", folder, *of_tuned)
    yield Model("fine-tuned, int8", f"onnx:{int8}")
    yield Model("pretrained, 160 × 160", SMALL)
    alone, taught = work / "alone", work / "taught"
    _vitrail("train", folder, "--embedder", SMALL, "--out", alone)
    yield Model("fine-tuned, 160 × 160", f"file:{alone / 'model.safetensors'}")
    _vitrail("train", folder, "--embedder", SMALL, "--teacher", f"file:{tuned}", "--out", taught)
    yield Model("distilled from the fine-tuned one, 160 × 160", f"file:{taught / 'model.safetensors'}")


def loaded(name: str) -> Embedder:
    """In full precision, a photo a thread: what a server measures to pay may be a close choice, and differ by row."""
    return make(name, threads=os.cpu_count() or 1, precision="full")


def measured(name: str, photos: Photos) -> Quality:
    """Queries are the test split, the gallery is everything."""
    embedder = loaded(name)
    found = embed(embedder, photos)
    return quality(embedder, found.of("test"), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="write the table here, as Markdown")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    made = list(models(given.folder, given.work))
    photos = read_photos(str(given.folder))
    qualities = [measured(model.embedder, photos) for model in track(made, "measuring")]
    speeds = rates([loaded(model.embedder) for model in made], photos.of("test"))
    rows = [
        (model.title, *(f"{value:.3f}" for value in found), f"{rate:.0f}", f"{size(model.embedder):,}")
        for model, found, rate in zip(made, qualities, speeds, strict=True)
    ]
    test = len(photos.of("test").all)
    section = Section(
        f"{test:,} queries among {len(photos.all):,} photos",
        COLUMNS,
        rows,
        "images/s is the model alone, a photo a core: turns in the same run, the best of each",
    )
    show(section)
    if given.out:
        command = shlex.join(["python", "-m", "tests.bench.models", *sys.argv[1:]])
        write(given.out, "Models, from pretrained to distilled", command, [section])


def _made(out: Path, *command: object) -> Path:
    if not out.exists():
        _vitrail(*command, "--out", out)
    return out


def _vitrail(*command: object) -> None:
    subprocess.run([sys.executable, "-m", "vitrail.cli.main", *map(str, command)], check=True)


if __name__ == "__main__":
    main()
