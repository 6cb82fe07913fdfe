"""What a photo may look like otherwise: torchvision's transforms, of a decoded photo, to the pixels of a model."""

from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.training.settings import Settings

BRIGHTNESS = CONTRAST = SATURATION = 0.2
HUE = 0.02


class Augmentation:
    """From a decoded photo to pixels; each call makes others, as torch's global generator says."""

    def __init__(self, preprocessing: Preprocessing, settings: Settings) -> None:
        self._preprocessing = preprocessing
        self._transform = None if settings.augmentation == "none" else _transform(preprocessing, settings)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Pixels uint8 [side, side, 3]."""
        if self._transform is None:
            return torch.tensor(self._preprocessing.apply(image))
        pixels: torch.Tensor = self._transform(image)
        return pixels.permute(1, 2, 0).contiguous()


def _transform(preprocessing: Preprocessing, settings: Settings) -> Any:
    filter = InterpolationMode(preprocessing.interpolation)
    area = (settings.least_area, 1.0)
    steps = [
        v2.RandomResizedCrop(preprocessing.crop, scale=area, interpolation=filter, antialias=True),
        v2.RandomHorizontalFlip(),
        *([v2.RandAugment()] if settings.augmentation == "strong" else []),
        v2.ColorJitter(BRIGHTNESS, CONTRAST, SATURATION, HUE),
        v2.PILToTensor(),
    ]
    return v2.Compose(steps)
