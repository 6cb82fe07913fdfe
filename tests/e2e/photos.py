"""Real photos for tests: those that scikit-image and scikit-learn carry, and crops of them."""

import importlib.resources
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

NAMES = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
)


@cache
def photos() -> dict[str, Image.Image]:
    """Whole photos by name, as RGB."""
    skimage, sklearn = importlib.resources.files("skimage") / "data", importlib.resources.files("sklearn") / "datasets"
    paths = [Path(str(skimage / name)) for name in NAMES]
    paths += [Path(str(sklearn / "images" / name)) for name in ("china.jpg", "flower.jpg")]
    return {path.stem: Image.open(path).convert("RGB") for path in paths if path.exists()}


def tiles(side: int = 128) -> Iterator[tuple[str, Image.Image]]:
    """Squares cut from the photos without overlap, with a name each."""
    for name, photo in photos().items():
        for top in range(0, photo.height - side + 1, side):
            for left in range(0, photo.width - side + 1, side):
                yield f"{name}/{left}-{top}", photo.crop((left, top, left + side, top + side))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
