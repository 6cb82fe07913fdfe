"""What an image may cost."""

from dataclasses import dataclass
from typing import NamedTuple

# GIF and TIFF plugins refuse twice Image.MAX_IMAGE_PIXELS whatever we allow.
PILLOW_PIXELS = 178_956_970
# Segments, chunks, blocks or strips of a file: 32 MiB of PNG in libpng's chunks of 8 KiB are 4,096.
MAX_PARTS = 16_384
# How often a file may have all its pixels decoded, at the limit of pixels: a progressive JPEG is decoded as often as
# it has scans. Encoders write about 10, a hostile one thousands.
MAX_SCANS_AT_PIXEL_LIMIT = 16
# Profiles of printing inks have about 0.5 to 3 MB, those of screens a few KB.
MAX_PROFILE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost; the defaults let a 64-megapixel photo (9,248 × 6,936) pass.

    Decoding takes up to 17 bytes a pixel for a moment (WebP; 14 for AVIF, 9 for a palette with transparency, 8 for
    the rest, 0.5 for a JPEG that is scaled on the way), twice the encoded bytes, and 16 MiB: at the default limit
    1.1 GB and about two seconds. The number of threads multiplies it. What is refused by its container takes none of
    the pixels' part.

    Attributes:
        bytes: The largest encoded size.
        pixels: The largest width × height, at most `PILLOW_PIXELS`.
        side: The largest width or height in pixels.
    """

    bytes: int = 32 * 2**20
    pixels: int = 2**26
    side: int = 65_535

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
        if self.pixels > PILLOW_PIXELS:
            raise ValueError(f"pixels must be at most {PILLOW_PIXELS:,}")


class Refused(Exception):
    """The bytes are not decoded; the text says why."""


class Parts(NamedTuple):
    """What is left of a file: the bytes for Pillow, and what the guard itself found beside the pixels."""

    image: bytes
    exif: bytes = b""
    profile: bytes = b""


def check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    """Refuse an image without pixels, or with more than the limits allow."""
    width, height = size
    shown = f"{width:,} × {height:,} pixels"
    if min(size) < 1:
        raise Refused(f"an image of {shown}")
    if max(size) > limits.side:
        raise Refused(f"{shown} exceed the limit of {limits.side:,} a side")
    if width * height > limits.pixels:
        raise Refused(f"{shown} exceed the limit of {limits.pixels:,} in all")


def check_work(decoded: int, limits: ImageLimits) -> None:
    """Refuse what has its pixels decoded over and over: `decoded` counts every time."""
    if decoded > MAX_SCANS_AT_PIXEL_LIMIT * limits.pixels:
        raise Refused(f"scans or frames of {decoded:,} pixels in all would take too long")
