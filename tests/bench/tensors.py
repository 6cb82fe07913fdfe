"""Images a second from pixels that are ready: the embedder, and the batcher before it, against the bare model."""

import asyncio
from functools import partial
from typing import NamedTuple

from tests.bench.bare import THREADS, Bare, Way, best_way, ways
from tests.bench.report import Section
from tests.bench.turns import in_turns, median, ratio
from vitrail.rpc.deadline import Deadline
from vitrail.server.decode import ImageLimits
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Pixels
from vitrail.server.embedding import Pipeline, Pipelines, Workers

BATCHES = (1, 2, 4, 6, 8, 12, 16, 32, 64)
SWEEPS = 3
PATIENCE = 600.0
MODEL, WAY = "the bare model", "in the best way found"
EMBEDDER, PIPELINE = "the embedder", "the embedder behind its queue"


class Fed:
    """A pipeline in this process that gets pixels instead of files."""

    def __init__(self, embedder: EfficientNetLite0, batch: int, capacity: int) -> None:
        self._runner = asyncio.Runner()
        self._workers = Workers(THREADS)
        self._pipeline = Pipeline(embedder, self._workers, ImageLimits(), batch=batch, capacity=capacity)

    def embed(self, pixels: Pixels) -> int:
        """Embed all, each as an item of bulk work of its own; returns how many they are."""
        return self._runner.run(self._embed(pixels))

    async def _embed(self, pixels: Pixels) -> int:
        running = asyncio.create_task(Pipelines([self._pipeline]).run())
        deadline = Deadline.after(PATIENCE)
        try:
            submit = self._pipeline.batcher.submit
            return len(await asyncio.gather(*(submit(each, deadline, bulk=True) for each in pixels)))
        finally:
            running.cancel()

    def close(self) -> None:
        self._runner.close()
        self._workers.close()


class Measured(NamedTuple):
    """The bare model's best batch and the best way to run it, the ratio of the whole to the former, all figures."""

    usual: Way
    best: Way
    ratio: float
    section: Section


def measure(embedder: EfficientNetLite0, bare: Bare, pixels: Pixels, batch: int, rounds: int) -> Measured:
    """Find the bare model's best batch, and the best way to run it; then run these, the embedder and the pipeline.

    Args:
        embedder: Takes `batch` images at once, as the server has it.
        bare: The same model, in the same precision, on the same device.
        pixels: uint8 [n, side, side, 3].
        batch: Of the server.
        rounds: Of the turns.
    """
    batches = [each for each in BATCHES if each <= len(pixels)]
    best, sweep = best_way(bare, pixels, ways(bare.device, batches), SWEEPS)
    usual = max(map(Way, batches), key=lambda way: median(sweep[str(way)]))
    images, fed = bare.images(pixels), Fed(embedder, batch, len(pixels))
    fed.embed(pixels[:batch])
    works = {
        MODEL: partial(bare.all, images, usual),
        WAY: partial(bare.all, images, best),
        EMBEDDER: partial(_embedded, embedder, pixels, batch),
        PIPELINE: partial(fed.embed, pixels),
    }
    rates = in_turns(works, rounds)
    fed.close()
    notes = {
        MODEL: f"on floats, batches of {usual}",
        WAY: f"{best}",
        EMBEDDER: f"on uint8, batches of {batch}, by one worker",
        PIPELINE: "one by one",
    }
    rows = [
        (f"{name}, {notes[name]}", f"{median(found):,.0f}", f"{ratio(found, rates[MODEL]):.3f}")
        for name, found in rates.items()
    ]
    swept = ", ".join(f"{size}: {median(values):,.0f}" for size, values in sweep.items())
    section = Section(
        f"pixels in, {bare.device}, {str(bare.dtype).removeprefix('torch.')}",
        ("", "images/s", "ratio"),
        rows,
        f"The bare model's images/s by batch (2 × 4: two batches of 4 at a time, a thread each): {swept}.",
    )
    return Measured(usual, best, ratio(rates[PIPELINE], rates[MODEL]), section)


def _embedded(embedder: EfficientNetLite0, pixels: Pixels, batch: int) -> int:
    return sum(len(embedder.embed(pixels[start : start + batch])) for start in range(0, len(pixels), batch))
