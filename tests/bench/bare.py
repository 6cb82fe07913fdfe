"""The default embedder's model in plain torch: what its vectors cost where nothing else is done."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from tests.bench.turns import Rates, in_turns, median
from vitrail.server.config import Config
from vitrail.server.embedders.efficientnet import EfficientNetLite0, pretrained
from vitrail.server.embedders.folding import folded
from vitrail.server.embedders.network import Pixels

THREADS: int = Config.model_fields["threads"].default
"""As the server has them."""


class Way(NamedTuple):
    """So many images at once, and so many of these at a time: on a CPU each by its share of the threads."""

    batch: int
    workers: int = 1

    def __str__(self) -> str:
        return f"{self.workers} × {self.batch}" if self.workers > 1 else f"{self.batch}"


class Bare:
    """Ready floats on the device in, pooled features on the device out; batch normalisation folded, channels last."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._pool = ThreadPoolExecutor(THREADS)
        self._model = folded(pretrained()).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, pixels: Pixels) -> torch.Tensor:
        """What it takes, of uint8 [n, side, side, 3]."""
        own = EfficientNetLite0.own
        levels = torch.tensor(pixels, device=self.device)
        images = (levels - torch.tensor(own.mean, device=self.device)) / torch.tensor(own.std, device=self.device)
        return images.to(self.dtype).permute(0, 3, 1, 2)

    def __call__(self, images: torch.Tensor, threads: int = THREADS) -> torch.Tensor:
        """Features [n, 1280] of images."""
        torch.set_num_threads(threads)  # of the calling thread
        with torch.inference_mode():
            features: torch.Tensor = self._model.forward_features(images).mean((2, 3))
            return features

    def all(self, images: torch.Tensor, way: Way) -> int:
        """Run it on all images; returns how many they are."""
        parts = torch.split(images, way.batch)
        if way.workers > 1:
            list(self._pool.map(partial(self, threads=THREADS // way.workers), parts))
        else:
            for part in parts:
                self(part)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return len(images)


def like(embedder: EfficientNetLite0) -> Bare:
    """The same model in the precision and on the device that the embedder takes here."""
    side = embedder.preprocessing.crop
    features = embedder.load().features(np.zeros((1, side, side, 3), np.uint8))
    return Bare(features.device.type, features.dtype)


def ways(device: str, batches: Sequence[int]) -> Sequence[Way]:
    """On a CPU all threads work on a batch, or each has one of its own."""
    found = [Way(batch) for batch in batches]
    return [*found, *(Way(batch, THREADS) for batch in batches)] if device == "cpu" and THREADS > 1 else found


def best_way(bare: Bare, pixels: Pixels, tried: Sequence[Way], rounds: int) -> tuple[Way, Rates]:
    """The one of the highest rate, and the rates of each."""
    images = bare.images(pixels)
    bare.all(images, tried[0])
    rates = in_turns({str(way): partial(bare.all, images, way) for way in tried}, rounds)
    return max(tried, key=lambda way: median(rates[str(way)])), rates
