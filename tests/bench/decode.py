"""Decoding JPEG to pixels of our size, against simplejpeg and torchvision: `python -m tests.bench.decode`.

Times are CPU time of the thread, taken in turns, medians: they hold on a machine that does other things too. The first
ratio is to whichever gives an array faster; the second is to simplejpeg with its array made an image of Pillow's, which
is what `decode` gives and what is scaled next. Small photos are decoded in two speeds, from process to process: where
the row that libjpeg writes happens to lie on a multiple of 32 bytes, it is written past the caches, and Pillow reads it
again at once.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from tests.bench.photos import encoded
from tests.bench.report import Section, show
from tests.server.images import jpeg, photos
from tests.server.profiles import P3, in_jpeg, of_primaries
from vitrail.server.decode import ImageLimits, decode

LIMITS = ImageLimits()
TARGET = 256
COLLECTION = "photos of the collection"

Decoder = Callable[[bytes], object]


def vitrail(data: bytes) -> Image.Image:
    return decode(data, LIMITS, TARGET)


def by_simplejpeg(data: bytes) -> NDArray[np.uint8]:
    """At the size that `decode` gives."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    scale = next(s for s in (8, 4, 2, 1) if min(width, height) // (2 * TARGET) >= s or s == 1)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, min_height=-(-height // scale), min_width=-(-width // scale)
    )
    return pixels


def by_torchvision(data: bytes) -> object:
    """At full size: it cannot scale while decoding."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def to_pillow(data: bytes) -> Image.Image:
    """What `decode` returns, by simplejpeg."""
    return Image.fromarray(by_simplejpeg(data))


def large(megapixels: float, **options: object) -> bytes:
    """A photo enlarged to so many megapixels of 4:2:0, with the noise of a sensor."""
    size = round((megapixels * 4 / 3) ** 0.5 * 1000), round((megapixels * 3 / 4) ** 0.5 * 1000)
    pixels = np.asarray(photos()["china.jpg"].resize(size, Image.Resampling.BICUBIC))
    noisy = pixels + np.random.default_rng(1).normal(0, 3, pixels.shape)
    return jpeg(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), quality=90, subsampling="4:2:0", **options)


def cpu(decoder: Decoder, files: Sequence[bytes], seconds: float) -> float:
    """CPU seconds a file."""
    start, done = time.thread_time(), 0
    while done == 0 or time.thread_time() - start < seconds:
        for data in files:
            decoder(data)
        done += len(files)
    return (time.thread_time() - start) / done


def threads(decoder: Decoder, files: Sequence[bytes], rounds: int) -> float:
    """How many times as fast two threads are as one: the best of several rounds, in turns."""

    def wall(workers: int) -> float:
        with ThreadPoolExecutor(workers) as pool:
            start = time.perf_counter()
            list(pool.map(decoder, files))
            return time.perf_counter() - start

    turns = [(wall(1), wall(2)) for _ in range(rounds)]
    return min(one for one, _ in turns) / min(two for _, two in turns)


def sets(folder: Path | None) -> dict[str, list[bytes]]:
    """JPEGs by what they are."""
    twelve = large(12)
    return {
        COLLECTION: encoded(folder, 100, "train"),
        "0.25 megapixels": [large(0.25)],
        "1 megapixel": [large(1)],
        "12 megapixels": [twelve],
        "12 megapixels, Display P3": [in_jpeg(twelve, of_primaries(P3, 2.2))],
        "12 megapixels, progressive": [large(12, progressive=True)],
    }


def measure(folder: Path | None, rounds: int, seconds: float) -> tuple[dict[str, float], Section]:
    """Decode in turns; returns the ratio to whichever gives an array faster, by set, and all figures."""
    decoders: dict[str, Decoder] = {
        "vitrail": vitrail,
        "simplejpeg": by_simplejpeg,
        "torchvision": by_torchvision,
        "simplejpeg to Pillow": to_pillow,
    }
    ratios, rows = {}, []
    for name, files in sets(folder).items():
        turns = [[cpu(decoder, files, seconds) for decoder in decoders.values()] for _ in range(rounds)]
        ours, one, other, image = (float(value) for value in np.median(np.array(turns), axis=0) * 1e3)
        speedup = threads(vitrail, (files * 24)[: max(24, len(files))], 1 + rounds // 2)
        ratios[name] = min(one, other) / ours
        figures = (ours, one, other, image, ratios[name], image / ours, speedup)
        rows.append((name, *(f"{figure:.2f}" for figure in figures)))
    columns = ("JPEG", *(f"{name}, ms" for name in decoders), "ratio, array", "ratio, image", "two threads")
    return ratios, Section("decoding", columns, rows, "CPU time of one thread; two threads: how many times as fast.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder of JPEGs; the clothing photos or packaged ones if not")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn")
    asked = parser.parse_args()
    show(measure(asked.folder, asked.rounds, asked.seconds)[1])


if __name__ == "__main__":
    main()
