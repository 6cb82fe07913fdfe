"""Bytes of any origin in, one upright RGB image out; whatever is wrong with them is InvalidArgument.

A thread cannot be stopped, so what bounds the work comes before the work. Each format has a guard that looks at
the container alone, hands Pillow only what the pixels need (no text, profiles or thumbnails, where Python-level
loops over millions of tiny parts would otherwise hold the GIL) and refuses what would take too long.

Pillow's plugins are called directly. `Image.open` would compare with `Image.MAX_IMAGE_PIXELS`, a global of the
whole process that warns, by a warning, about images that our own limit lets pass.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vitrail.rpc.errors import InvalidArgument

# GIF and TIFF plugins refuse twice Image.MAX_IMAGE_PIXELS whatever we allow.
PILLOW_PIXELS = 178_956_970
# Segments, chunks, blocks or strips of a file: 32 MiB of PNG in libpng's chunks of 8 KiB are 4,096.
MAX_PARTS = 16_384
# A progressive JPEG decodes as often as it has scans: encoders write about 10, a hostile one thousands.
MAX_SCANS_AT_PIXEL_LIMIT = 16
# How much larger than the target an image stays that is made smaller on the way, by scaled DCT (JPEG) or by averaging
# (the rest): vectors of photos kept a cosine of 0.998 (median 0.9997) and 0.9995 to those of the full size. A gap of
# 1 gave down to 0.99.
DCT_GAP = 2
AVERAGING_GAP = 4


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost; the defaults let a 64-megapixel photo (9,248 × 6,936) pass.

    Decoding takes up to 9 bytes a pixel for a moment (a palette with transparency; 0.1 for a JPEG, 6 for a
    progressive one): 0.6 GB and about a second at the default limit. The number of threads multiplies it.

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


class _Refused(Exception):
    """The bytes are not decoded; the text says why."""


def decode(data: bytes, limits: ImageLimits, target: int, *, field: str = "image") -> Image.Image:
    """Decode the first frame, turn it upright, put it on white; made for threads, touches no global state.

    Args:
        data: An encoded image; its format is told by its first bytes.
        limits: What it may cost.
        target: The short side in pixels that the caller needs. A larger image may come back smaller than it is,
            but never with a shorter short side than this; a smaller one comes back as it is.
        field: The field of the request that the error names.

    Returns:
        An image of mode RGB.

    Raises:
        InvalidArgument: Empty, too large, not an image, of a kind that is not supported, damaged or truncated.
    """
    try:
        return _decode(data, limits, target)
    except _Refused as refused:
        raise InvalidArgument(str(refused), field=field) from refused.__cause__


def check_jpeg(data: bytes, limits: ImageLimits, *, field: str) -> None:
    """Refuse what its headers do not show to be a JPEG within limits; no pixel is decoded.

    Raises:
        InvalidArgument: As in `decode`, but that pixels may be damaged.
    """
    try:
        kind = _kind(data, limits)
        if kind.plugin is not JpegImageFile:
            raise _Refused(f"{kind.name}, not JPEG")
        with _reading(kind):
            _open(kind, data, limits)
    except _Refused as refused:
        raise InvalidArgument(str(refused), field=field) from refused.__cause__


def thumbnail(image: Image.Image, side: int = 160) -> bytes:
    """Encode a copy that fits into side × side pixels as JPEG; a smaller image keeps its size."""
    small = image.copy()
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()


def _decode(data: bytes, limits: ImageLimits, target: int) -> Image.Image:
    kind = _kind(data, limits)
    with _reading(kind):
        image, exif = _open(kind, data, limits)
        if isinstance(image, JpegImageFile):
            image.draft(None, (target * DCT_GAP, target * DCT_GAP))
        image.load()
        exif = exif or image.info.get("exif", b"")
        return _upright(_rgb(image, target), _orientation(exif))


def _kind(data: bytes, limits: ImageLimits) -> "_Kind":
    if not data:
        raise _Refused("empty: no bytes")
    if len(data) > limits.bytes:
        raise _Refused(f"{len(data):,} bytes exceed the limit of {limits.bytes:,}")
    return _sniff(data)


def _open(kind: "_Kind", data: bytes, limits: ImageLimits) -> tuple[ImageFile.ImageFile, bytes]:
    """An image whose size is within limits and whose pixels are still encoded, and its Exif data."""
    bare, exif = kind.guard(data, limits)
    image = kind.plugin(io.BytesIO(bare))
    _check_size(image.size, limits)
    return image, exif


@contextmanager
def _reading(kind: "_Kind") -> Iterator[None]:
    """Whatever goes wrong with the bytes, they are refused."""
    try:
        yield
    except _Refused:
        raise
    except Exception as error:
        # Hostile bytes make Pillow raise OSError, ValueError, SyntaxError, struct.error, EOFError, IndexError,
        # KeyError, TypeError, MemoryError, zlib.error and more, so nothing narrower would do.
        raise _Refused(f"damaged or truncated {kind.name} image: {error or type(error).__name__}") from error


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    shown = f"{width:,} × {height:,} pixels"
    if min(size) < 1:
        raise _Refused(f"an image of {shown}")
    if max(size) > limits.side:
        raise _Refused(f"{shown} exceed the limit of {limits.side:,} a side")
    if width * height > limits.pixels:
        raise _Refused(f"{shown} exceed the limit of {limits.pixels:,} in all")


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


def _rgb(image: Image.Image, target: int) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_TO_8_BITS[np.asarray(image)])
    if image.mode in ("I", "F"):
        raise _Refused("samples of 32 bits, whose black and white are not defined")
    if not image.has_transparency_data:
        return _shrunk(_as(image, "RGB"), target)
    image = _shrunk(_as(image, "RGBA"), target)
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


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
        for tag, _count, value in _tiff_tags(tiff):
            if tag == 0x0112:
                return int.from_bytes(value[:2], "little" if tiff.startswith(b"II") else "big")
    except struct.error:
        pass
    return 1


def _tiff_tags(tiff: bytes) -> list[tuple[int, int, bytes]]:
    """List tag, count and value (4 bytes, or an offset) of a TIFF's first directory."""
    order = "<" if tiff.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "4xI", tiff)
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    return [struct.unpack_from(order + "H2xI4s", tiff, start + 2 + 12 * i) for i in range(entries)]


# --- Guards: what each container says before anything is decoded ----------------------------------------------
# Each returns the bytes for Pillow and the Exif data where it found some, and may raise anything on bad bytes.


def _guard_jpeg(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    view, exif, at, pixels = memoryview(data), b"", 2, 0
    kept = [view[:2]]
    for _ in range(MAX_PARTS):
        at = data.index(b"\xff", at)
        marker = data[at + 1]
        if marker == 0xDA:  # the first scan: from here on it is for libjpeg
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # padding, or a marker without a length
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame's header
            height, width = struct.unpack_from(">HH", data, at + 5)
            _check_size((width, height), limits)
            pixels = width * height
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            exif = exif or data[at + 4 : end]
        elif not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:  # 0xEE: Adobe, says how CMYK is meant
            kept.append(view[at:end])
        at = end
    else:
        raise _Refused(f"JPEG image with more than {MAX_PARTS:,} segments")
    scans = data.count(b"\xff\xda", at)
    if scans * pixels > MAX_SCANS_AT_PIXEL_LIMIT * limits.pixels or scans > MAX_PARTS:
        raise _Refused(f"{scans:,} progressive scans of {pixels:,} pixels would take too long")
    return b"".join([*kept, view[at:]]), exif


def _guard_png(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    view, exif, at = memoryview(data), b"", 8
    kept = [view[:8]]
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(view[at:end])
        elif kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        if kind == b"IEND" or end >= len(data):
            return b"".join(kept), exif
        at = end
    raise _Refused(f"PNG image with more than {MAX_PARTS:,} chunks")


def _guard_gif(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, parts = [data[:at]], 0
    while data[at] == 0x21:  # an extension: a label, blocks with their lengths, an empty block
        start, at = at, at + 2
        while parts < MAX_PARTS and data[at]:
            at, parts = at + 1 + data[at], parts + 1
        at, parts = at + 1, parts + 1
        if parts >= MAX_PARTS:
            raise _Refused(f"GIF image with more than {MAX_PARTS:,} blocks before its first frame")
        if data[start + 1] == 0xF9:  # which colour of the frame is transparent
            kept.append(data[start:at])
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    _check_size((max(width, left + frame_width), max(height, top + frame_height)), limits)
    return b"".join([*kept, data[at:]]), b""


def _guard_webp(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    """Check the canvas, which libwebp allocates as soon as the file is opened."""
    if data[12:16] == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        _check_size((low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1), limits)
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        _check_size(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), limits)
    else:
        width, height = struct.unpack_from("<HH", data, 26)
        _check_size((width & 0x3FFF, height & 0x3FFF), limits)
    return data, b""


def _guard_tiff(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    for tag, count, _value in _tiff_tags(data):
        if tag in (273, 324) and count > MAX_PARTS:  # StripOffsets, TileOffsets: Pillow loops over them
            raise _Refused(f"TIFF image with {count:,} strips or tiles exceeds the limit of {MAX_PARTS:,}")
    return data, b""


def _guard_bmp(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    header, compression = struct.unpack_from("<I12xI", data, 14)
    if header >= 40 and compression in (1, 2):  # decoded by a loop in Python
        raise _Refused("BMP image with run-length compression is not supported")
    return data, b""


def _guard_avif(data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    return data, b""  # libavif reads the boxes alone until a frame is asked for


@dataclass(frozen=True)
class _Kind:
    name: str
    magic: re.Pattern[bytes]
    guard: Callable[[bytes, ImageLimits], tuple[bytes, bytes]]
    plugin: type[ImageFile.ImageFile]


_KINDS = (
    _Kind("JPEG", re.compile(rb"\xff\xd8\xff"), _guard_jpeg, JpegImageFile),
    _Kind("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _guard_png, PngImageFile),
    _Kind("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _guard_webp, WebPImageFile),
    _Kind("GIF", re.compile(rb"GIF8[79]a"), _guard_gif, GifImageFile),
    _Kind("TIFF", re.compile(rb"II\*\0|MM\0\*"), _guard_tiff, TiffImageFile),
    _Kind("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL), _guard_avif, AvifImageFile),
    _Kind("BMP", re.compile(rb"BM"), _guard_bmp, BmpImageFile),
)


def _sniff(data: bytes) -> _Kind:
    for kind in _KINDS:
        if kind.magic.match(data):
            return kind
    known = ", ".join(kind.name for kind in _KINDS)
    raise _Refused(f"not an image of a format that is read here ({known})")
