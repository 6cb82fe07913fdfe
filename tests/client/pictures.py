"""Small pictures to test with."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(seed: int = 0, width: int = 24, height: int = 16) -> NDArray[np.uint8]:
    """Noise [H, W, 3], another for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def photo(seed: int = 0) -> bytes:
    """A PNG of noise, another for each seed."""
    return encoded(Image.fromarray(pixels(seed)))


def decoded(image: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(image)) as picture:
        return np.asarray(picture)
