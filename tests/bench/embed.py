"""Photos a second: indexed and embedded from JPEG, against decoding alone and the bare model alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench.bare import THREADS, Way, like
from tests.bench.photos import opened, reencoded
from tests.bench.report import Section
from tests.bench.turns import in_turns, median
from tests.e2e.running import Running
from vitrail.client import Client
from vitrail.server.embedders.efficientnet import EfficientNetLite0

ROUNDS = 3
CALLERS = 2
NAME = "photos"
FIRST = 8
USUAL, WORKERS = Way(8), Way(2, THREADS)


@dataclass(frozen=True)
class Photos:
    """Photos a second of each part alone, and of all together."""

    decoding: float
    model: float
    workers: float
    indexed: float
    embedded: float
    device: str = "cpu"

    @property
    def bound(self) -> float:
        """What can be reached beside the model at its best batch."""
        return self._beside(self.model)

    @property
    def strict(self) -> float:
        """What can be reached beside the model in the best way found."""
        return self._beside(self.workers)

    def _beside(self, model: float) -> float:
        """On a CPU both share the cores, beside a GPU the slower of them is waited for."""
        return 1 / (1 / self.decoding + 1 / model) if self.device == "cpu" else min(self.decoding, model)

    @property
    def ratio(self) -> float:
        return self.indexed / self.bound


def measure(
    running: Running,
    images: list[bytes],
    directory: Path,
    usual: Way = USUAL,
    best: Way = WORKERS,
    rounds: int = ROUNDS,
) -> Photos:
    """Index photos, embed them, decode them, and run the bare model, in turns on the same cores: medians.

    Args:
        running: The cluster; a collection is made there.
        images: JPEGs; each is indexed once.
        directory: For folders of them.
        usual: The bare model's best batch.
        best: The best way to run it.
        rounds: Of the turns.
    """
    embedder = EfficientNetLite0(THREADS)
    bare = like(embedder)
    pixels = bare.images(np.stack([embedder.preprocessing.apply(opened(image)) for image in images[:128]]))
    bare.all(pixels, usual)
    parts = [images[start::rounds] for start in range(rounds)]
    for number, part in enumerate(parts):
        reencoded(part, directory / f"{number}", prefix=f"{number}-")
    reencoded(images[:FIRST], directory / "first")
    with Client(running.address, timeout=600) as client, ThreadPoolExecutor(THREADS) as pool:
        client.create_collection(NAME)
        client.index(NAME, directory / "first")  # loads the model
        folders, again = iter(range(rounds)), parts[0]

        def indexed() -> int:
            return client.index(NAME, directory / f"{next(folders)}").indexed

        def embedded() -> int:
            halves = [again[start::CALLERS] for start in range(CALLERS)]
            return sum(len(found.vectors) for found in pool.map(lambda half: client.embed(images=half), halves))

        def decoded() -> int:
            return len(list(pool.map(opened, again)))

        works: dict[str, Callable[[], int]] = {
            "decoding": decoded,
            "model": partial(bare.all, pixels, usual),
            "workers": partial(bare.all, pixels, best),
            "indexed": indexed,
            "embedded": embedded,
        }
        rates = in_turns(works, rounds)
    return Photos(**{name: median(found) for name, found in rates.items()}, device=bare.device)


def section(photos: Photos) -> Section:
    formula = "1 / (1/decoding + 1/model)" if photos.device == "cpu" else "the slower of the two"
    rows = [
        ("decoding alone", f"{photos.decoding:,.0f}", "", ""),
        ("the bare model alone, its best batch", f"{photos.model:,.0f}", "", ""),
        ("the bare model alone, the best way found", f"{photos.workers:,.0f}", "", ""),
        (formula, f"{photos.bound:,.0f}", "1.000", ""),
        ("the same, in the best way", f"{photos.strict:,.0f}", "", "1.000"),
        _row("indexed from JPEG through the SDK", photos.indexed, photos),
        _row(f"Embed, {CALLERS} callers", photos.embedded, photos),
    ]
    return Section("photos from JPEG", ("", "photos/s", "ratio", "to the best way"), rows)


def _row(what: str, rate: float, photos: Photos) -> tuple[str, ...]:
    return (what, f"{rate:,.0f}", f"{rate / photos.bound:.3f}", f"{rate / photos.strict:.3f}")
