"""Bytes of any origin in, one upright RGB image out; whatever is wrong with them is InvalidArgument.

What bounds the work comes before the work: see `formats`. Pillow's plugins are called directly. `Image.open` would
compare with `Image.MAX_IMAGE_PIXELS`, a global of the whole process that warns, by a warning, about images that our
own limit lets pass.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from vitrail.rpc.errors import InvalidArgument
from vitrail.server.colour import to_srgb
from vitrail.server.formats.kinds import Kind, sniff
from vitrail.server.formats.limits import ImageLimits, Refused, check_size
from vitrail.server.formats.tiff import ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO, directory

__all__ = ["ImageLimits", "check_jpeg", "decode", "size", "thumbnail"]

# How much larger than the target an image stays that is made smaller on the way, by scaled DCT (JPEG) or by averaging
# (the rest): vectors of photos kept a cosine of 0.998 (median 0.9997) and 0.9995 to those of the full size. A gap of
# 1 gave down to 0.99.
DCT_GAP = 2
AVERAGING_GAP = 4

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def decode(
    data: bytes, limits: ImageLimits, target: int, *, background: Colour = WHITE, field: str = "image"
) -> Image.Image:
    """Decode the first frame, convert it to sRGB, put it on a background, turn it upright; made for threads.

    Args:
        data: An encoded image; its format is told by its first bytes.
        limits: What it may cost.
        target: The short side in pixels that the caller needs. A larger image may come back smaller than it is,
            but never with a shorter short side than this; a smaller one comes back as it is.
        background: The colour, in sRGB, that transparent pixels let through.
        field: The field of the request that the error names.

    Returns:
        An image of mode RGB, its colours in sRGB. A profile or Exif data that is damaged counts as none.

    Raises:
        InvalidArgument: Empty, too large, not an image, of a kind that is not supported, damaged or truncated.
    """
    try:
        return _decode(data, limits, target, background)
    except Refused as refused:
        raise InvalidArgument(str(refused), field=field) from refused.__cause__


def check_jpeg(data: bytes, limits: ImageLimits, *, field: str) -> None:
    """Refuse what its headers do not show to be a JPEG within limits; no pixel is decoded.

    Raises:
        InvalidArgument: As in `decode`, but that pixels may be damaged.
    """
    try:
        kind = _kind(data, limits)
        if kind.plugin is not JpegImageFile:
            raise Refused(f"{kind.name}, not JPEG")
        with _reading(kind):
            _open(kind, data, limits)
    except Refused as refused:
        raise InvalidArgument(str(refused), field=field) from refused.__cause__


def size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Width and height as the file has them, from its headers; no pixel is decoded.

    Raises:
        InvalidArgument: As in `decode`, but that pixels may be damaged.
    """
    try:
        kind = _kind(data, limits)
        with _reading(kind):
            return _open(kind, data, limits)[0].size
    except Refused as refused:
        raise InvalidArgument(str(refused), field="image") from refused.__cause__


def thumbnail(image: Image.Image, side: int = 160) -> bytes:
    """Encode a copy that fits into side × side pixels as JPEG; a smaller image keeps its size."""
    small = image.copy()
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()


def _decode(data: bytes, limits: ImageLimits, target: int, background: Colour) -> Image.Image:
    kind = _kind(data, limits)
    with _reading(kind):
        image, exif, profile = _open(kind, data, limits)
        if isinstance(image, JpegImageFile):
            image.draft(None, (target * DCT_GAP, target * DCT_GAP))
            image.decodermaxblock = len(data)  # in one piece: pieces of 64 KiB cost 2% of the time
        image.load()
        # What no guard took out of its container, the plugin did.
        exif = exif or image.info.get("exif", b"")
        profile = profile or image.info.get("icc_profile", b"")
        upright: Image.Image = _rgb(image, target, profile, background)
        del image  # with what its decoder holds
        return _upright(upright, _orientation(exif))


def _kind(data: bytes, limits: ImageLimits) -> Kind:
    if not data:
        raise Refused("empty: no bytes")
    if len(data) > limits.bytes:
        raise Refused(f"{len(data):,} bytes exceed the limit of {limits.bytes:,}")
    return sniff(data)


def _open(kind: Kind, data: bytes, limits: ImageLimits) -> tuple[ImageFile.ImageFile, bytes, bytes]:
    """An image whose size is within limits and whose pixels are still encoded, its Exif data and its profile."""
    parts = kind.guard(data, limits)
    image = kind.plugin(io.BytesIO(parts.image))
    check_size(image.size, limits)
    return image, parts.exif, parts.profile


@contextmanager
def _reading(kind: Kind) -> Iterator[None]:
    """Whatever goes wrong with the bytes, they are refused."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        # Hostile bytes make Pillow raise OSError, ValueError, SyntaxError, struct.error, EOFError, IndexError,
        # KeyError, TypeError, MemoryError, zlib.error and more, so nothing narrower would do.
        raise Refused(f"damaged or truncated {kind.name} image: {error or type(error).__name__}") from error


# --- From Pillow's modes to upright RGB -----------------------------------------------------------------------

# 16 bits to 8 by rounding x / 257: 65,535 becomes 255. Pillow would clip at 255 instead.
_TO_8_BITS = np.round(np.arange(2**16) / 257).astype(np.uint8)

# Exif's orientation to what undoes it (Exif 2.32, 4.6.4.A).
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _rgb(image: Image.Image, target: int, profile: bytes, background: Colour) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _of_8_bits(image)
    if image.mode in ("I", "F"):
        raise Refused("samples of 32 bits, whose black and white are not defined")
    image = to_srgb(_shrunk(_as(image, _converted(image, profile)), target), profile)
    if image.mode != "RGBA":
        return _as(image, "RGB")
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=image)
    return flat


def _converted(image: Image.Image, profile: bytes) -> str:
    """The mode in which an image is made smaller and its profile applied."""
    if image.has_transparency_data:
        return "RGBA"
    if image.mode == "CMYK":
        return "CMYK"
    return "L" if image.mode in ("1", "L") and profile[16:20] == b"GRAY" else "RGB"


def _of_8_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        samples = 65_535 - samples  # Pillow inverts 8 bits alone
    grey = Image.fromarray(_TO_8_BITS[samples])
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray((samples != transparent).astype(np.uint8) * 255))
    return grey


def _as(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _shrunk(image: Image.Image, target: int) -> Image.Image:
    factor = min(image.size) // (target * AVERAGING_GAP)
    return image.reduce(factor) if factor > 1 else image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UNDO[orientation]) if orientation in _UNDO else image


def _orientation(exif: bytes) -> int:
    """Read Exif's orientation, 1 to 8; damaged Exif is no reason to refuse a photo and gives 1."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        for tag in directory(tiff):
            if tag.number == ORIENTATION:
                return int.from_bytes(tag.value[:2], "little" if tiff.startswith(b"II") else "big")
    except struct.error:
        pass
    return 1
