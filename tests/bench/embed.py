"""Photos a second: indexed and embedded from JPEG, against decoding alone and the bare model alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench.bare import THREADS, like
from tests.bench.photos import opened, reencoded
from tests.bench.report import Section
from tests.bench.turns import in_turns, median
from tests.e2e.running import Running
from vitrail.client import Client
from vitrail.server.embedders.efficientnet import EfficientNetLite0

ROUNDS = 3
CALLERS = 2
NAME = "photos"
BARE_BATCH = 8


@dataclass(frozen=True)
class Photos:
    """Photos a second of each part alone, and of all together."""

    decoding: float
    model: float
    indexed: float
    embedded: float
    device: str = "cpu"

    @property
    def bound(self) -> float:
        """What can be reached: on a CPU both share the cores, beside a GPU the slower of them is waited for."""
        if self.device == "cpu":
            return 1 / (1 / self.decoding + 1 / self.model)
        return min(self.decoding, self.model)

    @property
    def ratio(self) -> float:
        return self.indexed / self.bound


def measure(
    running: Running, images: list[bytes], directory: Path, batch: int = BARE_BATCH, rounds: int = ROUNDS
) -> Photos:
    """Index photos, embed them, decode them, and run the bare model, in turns on the same cores: medians.

    Args:
        running: The cluster; a collection is made there.
        images: JPEGs; each is indexed once.
        directory: For folders of them.
        batch: Of the bare model.
        rounds: Of the turns.
    """
    embedder = EfficientNetLite0(THREADS)
    bare = like(embedder)
    pixels = bare.images(np.stack([embedder.preprocessing.apply(opened(image)) for image in images[:128]]))
    bare.all(pixels, batch)
    parts = [images[start::rounds] for start in range(rounds)]
    for number, part in enumerate(parts):
        reencoded(part, directory / f"{number}", prefix=f"{number}-")
    reencoded(images[:batch], directory / "first")
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
            "model": partial(bare.all, pixels, batch),
            "indexed": indexed,
            "embedded": embedded,
        }
        rates = in_turns(works, rounds)
    return Photos(**{name: median(found) for name, found in rates.items()}, device=bare.device)


def section(photos: Photos) -> Section:
    formula = "1 / (1/decoding + 1/model)" if photos.device == "cpu" else "the slower of the two"
    rows = [
        ("decoding alone", f"{photos.decoding:,.0f}", ""),
        ("the bare model alone", f"{photos.model:,.0f}", ""),
        (formula, f"{photos.bound:,.0f}", "1.000"),
        ("indexed from JPEG through the SDK", f"{photos.indexed:,.0f}", f"{photos.ratio:.3f}"),
        (f"Embed, {CALLERS} callers", f"{photos.embedded:,.0f}", f"{photos.embedded / photos.bound:.3f}"),
    ]
    return Section("photos from JPEG", ("", "photos/s", "ratio"), rows)
