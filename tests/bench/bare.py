"""The default embedder's model in plain torch: what its vectors cost where nothing else is done."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from tests.bench.turns import Rates, in_turns, median
from vitrail.server.config import Config
from vitrail.server.embedders.efficientnet import EfficientNetLite0, folded, pretrained
from vitrail.server.embedders.network import Pixels

THREADS: int = Config.model_fields["threads"].default
"""As the server has them."""


class Bare:
    """Ready floats on the device in, pooled features on the device out; batch normalisation folded, channels last."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        torch.set_num_threads(THREADS)
        self.device, self.dtype = device, dtype
        self._model = folded(pretrained()).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, pixels: Pixels) -> torch.Tensor:
        """What it takes, of uint8 [n, side, side, 3]."""
        own = EfficientNetLite0.own
        levels = torch.tensor(pixels, device=self.device)
        images = (levels - torch.tensor(own.mean, device=self.device)) / torch.tensor(own.std, device=self.device)
        return images.to(self.dtype).permute(0, 3, 1, 2)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features [n, 1280] of images."""
        with torch.inference_mode():
            features: torch.Tensor = self._model.forward_features(images).mean((2, 3))
            return features

    def all(self, images: torch.Tensor, batch: int) -> int:
        """Run it on all images; returns how many they are."""
        for part in torch.split(images, batch):
            self(part)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return len(images)


def like(embedder: EfficientNetLite0) -> Bare:
    """The same model in the precision and on the device that the embedder takes here."""
    side = embedder.preprocessing.crop
    features = embedder.load().features(np.zeros((1, side, side, 3), np.uint8))
    return Bare(features.device.type, features.dtype)


def by_batch(bare: Bare, pixels: Pixels, batches: Sequence[int], rounds: int) -> tuple[int, Rates]:
    """The batch of the highest rate, and the rates of each."""
    images = bare.images(pixels)
    bare.all(images, batches[0])
    rates = in_turns({str(batch): partial(bare.all, images, batch) for batch in batches}, rounds)
    return max(batches, key=lambda batch: median(rates[str(batch)])), rates
