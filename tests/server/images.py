"""Draws the pictures and writes the odd files that the tests of decoding are about."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import sklearn
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# Exif's orientation to how a camera that writes it had stored the upright picture.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """An RGB picture without symmetry, smooth enough to survive any encoder."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / width, 255 * y / height
    image = Image.fromarray(np.stack([red, green, 255 - red * green / 255], axis=2).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((width // 8, height // 8, width // 2, height // 2), fill=(230, 40, 60))
    return image


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def faded(image: Image.Image) -> Image.Image:
    """RGBA: opaque on the right, more and more transparent to the left, with black hidden beneath."""
    alpha = Image.linear_gradient("L").rotate(90).resize(image.size)
    hidden = alpha.point(lambda value: 255 if value else 0)
    image = Image.composite(image, Image.new("RGB", image.size), hidden)
    image.putalpha(alpha)
    return image


def half(image: Image.Image) -> Image.Image:
    """RGBA: the left half is transparent, the right half opaque."""
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size).point(lambda value: 255 * (value > 127)))
    return image


def on_white(image: Image.Image) -> Image.Image:
    """What an RGBA image must look like, from the definition of alpha."""
    pixels = np.asarray(image).astype(float)
    alpha = pixels[..., 3:] / 255
    return Image.fromarray(np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encode(image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def sixteen_bit(image: Image.Image, order: str = "<") -> Image.Image:
    """The grey of an image in 16 bits: 255 becomes 65,535."""
    return Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) * 257).astype(order + "u2"))


def oriented(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The picture as such a camera stores it, and its Exif data."""
    stored = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (image if stored is None else image.transpose(stored)), exif


def png(size: tuple[int, int], depth: int, colour: int, rows: Iterator[bytes], *, before: bytes = b"") -> bytes:
    """A PNG from its raw rows, each with its filter byte; `before` goes between the header and the data."""
    squeeze = zlib.compressobj(9)
    data = b"".join([*map(squeeze.compress, rows), squeeze.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_48_bits(image: Image.Image) -> bytes:
    pixels = (np.asarray(image).astype(np.uint16) * 257).astype(">u2")
    return png(image.size, 16, 2, (b"\0" + row.tobytes() for row in pixels))


def png_rows(samples: NDArray[np.int64], depth: int) -> Iterator[bytes]:
    """Rows of a PNG, each with its filter byte, of samples [height, width, channels] of `depth` bits."""
    for row in samples.reshape(len(samples), -1):
        bits = "".join(f"{value:0{depth}b}" for value in row)
        size = -(-len(bits) // 8)
        yield b"\0" + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


@cache
def png_bomb(side: int = 30_000) -> bytes:
    """A whole, valid PNG of side × side white pixels in about 110 KB."""
    row = b"\0" + b"\xff" * (side // 8)
    return png((side, side), 1, 0, (row for _ in range(side)))


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims other dimensions than its data has."""
    data = bytearray(jpeg(picture()))
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    """A GIF of a small screen with a first frame of these dimensions."""
    data = bytearray(encode(picture().convert("L"), "GIF"))
    frame = data.index(b",\0\0\0\0")
    struct.pack_into("<HH", data, frame + 5, width, height)
    return bytes(data)


def webp_of_size(width: int, height: int) -> bytes:
    """A WebP with a canvas of these dimensions."""
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory: tag to (type, count, value or offset)."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tail


def tiff_of(samples: NDArray[np.int64], bits: int, photometric: int, extra: int | None = None) -> bytes:
    """A TIFF of samples [height, width, channels]; `extra` says what the last channel is."""
    height, width, channels = samples.shape
    pixels = samples.astype("<u2" if bits == 16 else np.uint8).tobytes()
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, channels, 300), 262: (3, 1, photometric)}
    tags |= {273: (4, 1, 308), 277: (3, 1, channels), 278: (4, 1, height), 279: (4, 1, len(pixels))}
    if channels < 3:
        tags[258] = (3, channels, bits | bits << 16)
    if extra is not None:
        tags[338] = (3, 1, extra)
    return tiff(tags).ljust(300, b"\0") + struct.pack("<4H", *[bits] * 4) + pixels


def bmp_of_size(width: int, height: int, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


# Natural photos that come with scikit-image and scikit-learn.
PHOTOS = {
    Path(skimage.__file__).parent / "data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    Path(sklearn.__file__).parent / "datasets" / "images": ("china.jpg", "flower.jpg"),
}


def photo_files() -> dict[str, Path]:
    return {name: folder / name for folder, names in PHOTOS.items() for name in names}


@cache
def photos() -> dict[str, Image.Image]:
    """The photos by file name, as RGB."""
    return {name: _opened(path) for name, path in photo_files().items()}


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference in grey levels; images of different size or mode differ by 255."""
    if (one.size, one.mode) != (other.size, other.mode):
        return 255.0
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())
