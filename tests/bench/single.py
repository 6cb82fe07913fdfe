"""How long one photo takes on an idle machine, against decoding it and running the bare model on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
import torch

from tests.bench.bare import THREADS, Bare
from tests.bench.photos import opened
from tests.bench.report import Section
from vitrail.client import Client
from vitrail.server.embedders.preprocessing import Preprocessing

BLOCK = 10
STEPS = ("decode", "embed_wait", "embed", "search_wait", "fanout", "merge")
SEARCH, EMBED, INSIDE = "a search by photo", "Embed of one photo", "of it decoded and embedded"
BARE, ONE_THREAD = "decode + model", "the same, by one thread"


@dataclass(frozen=True)
class Single:
    """Medians in milliseconds by what was done, and of the steps that the server names."""

    taken: dict[str, float]
    steps: dict[str, float]

    @property
    def whole(self) -> float:
        """A search to the bare minimum."""
        return self.taken[SEARCH] / self.taken[BARE]

    @property
    def inside(self) -> float:
        """Its embedding to the bare minimum."""
        return self.taken[INSIDE] / self.taken[BARE]

    @property
    def section(self) -> Section:
        bare, one = self.taken[BARE], self.taken[ONE_THREAD]
        rows = [(name, f"{ms:.2f}", f"{ms / bare:.3f}", f"{ms / one:.3f}") for name, ms in self.taken.items()]
        steps = ", ".join(f"{name} {value:.2f}" for name, value in self.steps.items())
        return Section(
            "one photo at a time, idle",
            ("", "ms", "ratio", "to one thread"),
            rows,
            "A search is from the call of the SDK to its hits: gRPC, decoding, the model, all shards, merging. The "
            f"bare model gets floats of pixels made before. Of the search, as the server says, in ms: {steps}.",
        )


def measure(client: Client, name: str, images: list[bytes], bare: Bare, own: Preprocessing, blocks: int) -> Single:
    """Search with photos one after another, and do the rest on the same ones, in turns of `BLOCK`."""
    ready = {image: bare.images(own.apply(opened(image))[None]) for image in images}
    steps: list[list[float]] = []

    def search(image: bytes) -> None:
        timings = client.search(name, image=image).timings
        steps.append([getattr(timings, step) for step in STEPS])

    def model(image: bytes, threads: int) -> None:
        opened(image)
        bare(ready[image], threads)
        if bare.device == "cuda":
            torch.cuda.synchronize()

    works: dict[str, Callable[[bytes], object]] = {
        SEARCH: search,
        EMBED: lambda image: client.embed(images=[image]),
        BARE: partial(model, threads=THREADS),
        ONE_THREAD: partial(model, threads=1),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    asked = cycle(images)
    for _ in range(blocks):
        block = [next(asked) for _ in range(BLOCK)]
        for what, work in works.items():
            work(block[0])
            for image in block:
                start = time.perf_counter()
                work(image)
                taken[what].append(time.perf_counter() - start)
    medians = {what: 1000 * float(np.median(seconds)) for what, seconds in taken.items()}
    of_steps = 1000 * np.array(steps)
    inside = float(np.median(of_steps[:, : STEPS.index("embed") + 1].sum(1)))
    return Single(
        {SEARCH: medians.pop(SEARCH), INSIDE: inside, **medians},
        dict(zip(STEPS, np.median(of_steps, axis=0).tolist(), strict=True)),
    )
