"""Photos a second: indexed from JPEG, against decoding alone and the bare model alone."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.bench.photos import BATCH, opened, reencoded
from tests.e2e.running import Running
from vitrail.client import Client
from vitrail.server.embedders.efficientnet import EfficientNetLite0

T = TypeVar("T")
Pixels = NDArray[np.uint8]

THREADS = 2
ROUNDS = 3
NAME = "photos"


@dataclass(frozen=True)
class Photos:
    """Photos a second of each part alone, and of all together."""

    decoding: float
    model: float
    indexed: float

    @property
    def bound(self) -> float:
        """What can be reached where both share the cores: 1 / (1/decoding + 1/model)."""
        return 1 / (1 / self.decoding + 1 / self.model)

    @property
    def ratio(self) -> float:
        return self.indexed / self.bound


def measure(running: Running, images: list[bytes], directory: Path) -> Photos:
    """Index photos through the SDK, decode them, and run the model on them, in turns on the same cores: medians."""
    parts = [images[start::ROUNDS] for start in range(ROUNDS)]
    embedder = EfficientNetLite0(THREADS)
    pixels = [embedder.preprocessing.apply(opened(image)) for image in images[:128]]
    batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    embedder.embed(batches[0])
    reencoded(images[:BATCH], directory / "first")
    rates: list[tuple[float, float, float]] = []
    with Client(running.address, timeout=600) as client, ThreadPoolExecutor(THREADS) as pool:
        client.create_collection(NAME)
        client.index(NAME, directory / "first")  # loads the model

        def indexed(folder: Path) -> int:
            return client.index(NAME, folder).indexed

        def decoded(part: list[bytes]) -> int:
            return len(list(pool.map(opened, part)))

        def embedded(batches: list[Pixels]) -> int:
            return sum(len(embedder.embed(batch)) for batch in batches)

        for number, part in enumerate(parts):
            folder = directory / f"{number}"
            reencoded(part, folder, prefix=f"{number}-")
            decoding = _rate(decoded, part)
            model = _rate(embedded, batches)
            rates.append((decoding, model, _rate(indexed, folder)))
    return Photos(*(float(value) for value in np.median(np.array(rates), axis=0)))


def _rate(work: Callable[[T], int], on: T) -> float:
    start = time.perf_counter()
    return work(on) / (time.perf_counter() - start)
