"""Fixed photos of each kind that is decoded in a way of its own, and the vectors that they got: tests/server/golden.

The photos are files, since another version of an encoder would write other ones. When a space is changed on purpose,
`python -m tests.server.golden_vectors` writes their vectors anew; `--photos` makes the photos again, too.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.server import profiles
from tests.server.images import encode, faded, jpeg, oriented, photos, png_of_48_bits, sixteen_bit
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Floats, Pixels

FOLDER = Path(__file__).parent / "golden"
VECTORS = FOLDER / "vectors.npy"


def files() -> list[Path]:
    """The photos, in the order of their vectors."""
    return sorted(path for path in FOLDER.iterdir() if path != VECTORS)


def pixels(embedder: EfficientNetLite0) -> Pixels:
    """What the model sees of each, uint8 [n, 224, 224, 3]."""
    recipe = embedder.preprocessing
    images = (decode(path.read_bytes(), ImageLimits(), recipe.target) for path in files())
    return np.stack([recipe.apply(image) for image in images])


def vectors() -> Floats:
    """Their vectors, float32 [n, 1280], by a model that is loaded for it."""
    embedder = EfficientNetLite0(threads=1, precision="full")
    return embedder.embed(pixels(embedder))


def made() -> dict[str, bytes]:
    """The photos as they were made, by file name."""
    plain = Image.fromarray(np.asarray(photos()["chelsea.png"]))  # without the profile that its file has
    cat, small = (plain.resize(size) for size in ((300, 200), (120, 80)))
    stored, exif = oriented(cat, 6)
    # Twice as large as needed and more, so that it is scaled while it is decoded.
    large = photos()["coffee.png"].resize((1600, 1100), Image.Resampling.BICUBIC)
    return {
        "animated.gif": encode(small, "GIF", save_all=True, append_images=[small.rotate(180)]),
        "bitmap.bmp": encode(small, "BMP"),
        "cmyk.jpg": jpeg(cat.convert("CMYK"), quality=85),
        "deep.png": encode(sixteen_bit(small), "PNG"),
        "deep-colour.png": png_of_48_bits(small),
        "fax.tif": encode(small.convert("1"), "TIFF", compression="group4"),
        "grey.jpg": jpeg(cat.convert("L"), quality=85),
        "large.jpg": jpeg(large, quality=50, subsampling=2),
        "palette.png": encode(small.quantize(32), "PNG", transparency=5),
        "photo.avif": encode(cat, "AVIF", quality=70),
        "photo.jpg": jpeg(cat, quality=85, subsampling=2),
        "photo.webp": encode(cat, "WEBP", quality=80),
        "profile.jpg": profiles.in_jpeg(jpeg(cat, quality=85), profiles.of_primaries(profiles.P3, 2.2)),
        "profile.png": profiles.in_png(encode(small, "PNG"), profiles.of_primaries(profiles.ADOBE_RGB, 2.2)),
        "progressive.jpg": jpeg(cat, quality=85, progressive=True),
        "rotated.jpg": jpeg(stored, quality=85, exif=exif),
        "transparent.png": encode(faded(small), "PNG"),
        "transparent.webp": encode(faded(small), "WEBP", lossless=True),
    }


def write_photos() -> None:
    for name, data in made().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    if "--photos" in sys.argv:
        write_photos()
    np.save(VECTORS, vectors())
