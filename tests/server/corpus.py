"""Files that mean harm, are damaged or are merely odd, and what becomes of each: `python -m tests.server.corpus`.

Each file is decoded by a process of its own, forked from one that has decoded nothing, so that its peak of memory is
its own and a crash is seen as what it is.
"""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.server import images, profiles
from tests.server.images import encode, jpeg, picture, png_chunk, tiff
from vitrail.rpc.errors import InvalidArgument
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.formats.limits import MAX_PARTS

LIMITS = ImageLimits()
TARGET = 256
CPU_SECONDS = 0.1
SPARE_BYTES = 16 * 2**20
BYTES_A_PIXEL = 17

PICTURE = picture()
BLACK = Image.new("RGB", PICTURE.size)
FADED = images.faded(PICTURE)


class Bad(NamedTuple):
    """Files that must be refused, with words that match."""

    files: list[bytes]
    why: str


class Good(NamedTuple):
    """A file that must come out as this picture, within a mean difference in grey levels."""

    file: bytes
    picture: Image.Image
    within: float = 0


@dataclass(frozen=True)
class Outcome:
    """What became of the worst file of a kind; `wrong` says what should not have been."""

    kind: str
    status: str
    cpu: float
    memory: int
    wrong: str


FILES = {
    "JPEG": jpeg(PICTURE),
    "progressive JPEG": jpeg(PICTURE, progressive=True),
    "PNG": encode(PICTURE, "PNG"),
    "GIF": encode(PICTURE.quantize(), "GIF", interlace=True),
    "WebP": encode(PICTURE, "WEBP", quality=95),
    "lossless WebP": encode(PICTURE, "WEBP", lossless=True),
    "TIFF": encode(PICTURE, "TIFF"),
    "LZW TIFF": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encode(PICTURE, "TIFF", compression="jpeg", quality=95),
    "BMP": encode(PICTURE, "BMP"),
    "AVIF": encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4"),
}


@cache
def corpus() -> dict[str, Bad | Good]:
    return {**_plain(), **_odd(), **_beside(), **_large(), **_endless(), **_damaged(), **_nonsense(), **_others()}


def _plain() -> dict[str, Bad | Good]:
    return {name: Good(data, PICTURE, 6) for name, data in FILES.items()}


def _odd() -> dict[str, Bad | Good]:
    frames = {"save_all": True, "append_images": [BLACK, BLACK]}
    tall, wide, dot = picture(1, 20_000), picture(20_000, 1), PICTURE.crop((5, 5, 6, 6))
    half = images.half(PICTURE)
    two = PICTURE.convert("1")
    return {
        "arithmetic-coded JPEG": Good(arithmetic(8, 8), Image.new("RGB", (8, 8), (128, 128, 128))),
        "CMYK JPEG of Adobe": Good(jpeg(PICTURE.convert("CMYK")), PICTURE, 2),
        "JPEG with restarts": Good(jpeg(PICTURE, restart_marker_rows=1), PICTURE, 6),
        "JPEG without one of its restarts": Good(without_restart(), PICTURE, 12),
        "16-bit PNG": Good(encode(images.sixteen_bit(PICTURE), "PNG"), images.grey(PICTURE)),
        "48-bit PNG": Good(images.png_of_48_bits(PICTURE), PICTURE),
        "16-bit TIFF": Good(encode(images.sixteen_bit(PICTURE, ">"), "TIFF"), images.grey(PICTURE)),
        "CMYK TIFF": Good(encode(PICTURE.convert("CMYK"), "TIFF"), PICTURE, 1),
        "one-bit PNG": Good(encode(two, "PNG"), two.convert("RGB")),
        "fax TIFF": Good(encode(two, "TIFF", compression="group4"), two.convert("RGB")),
        "palette with transparency, PNG": Good(encode(FADED.quantize(), "PNG"), images.on_white(FADED), 14),
        "palette with transparency, GIF": Good(encode(half, "GIF"), images.on_white(half), 6),
        "grey with transparency, PNG": Good(encode(FADED.convert("LA"), "PNG"), images.grey(images.on_white(FADED)), 1),
        "transparent WebP": Good(encode(FADED, "WEBP", lossless=True), images.on_white(FADED), 1),
        "animated GIF": Good(encode(PICTURE, "GIF", **frames), PICTURE, 6),
        "animated PNG": Good(encode(PICTURE, "PNG", **frames), PICTURE),
        "animated WebP": Good(encode(PICTURE, "WEBP", lossless=True, **frames), PICTURE),
        "animated AVIF": Good(encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4", **frames), PICTURE, 6),
        "TIFF of 300 directories": Good(encode(PICTURE, "TIFF", save_all=True, append_images=[dot] * 299), PICTURE),
        "1 × 20,000": Good(encode(tall, "PNG"), tall),
        "20,000 × 1": Good(encode(wide, "PNG"), wide),
        "20,000 × 1 JPEG": Good(jpeg(wide), wide, 6),
        "1,000 × 8,000, all at once": Good(*everything()),
        "one pixel": Good(encode(dot, "PNG"), dot),
    }


def _beside() -> dict[str, Bad | Good]:
    """Good pictures with something beside them that must not matter."""
    exif = b"Exif\0\0"
    loop = tiff({0x8769: (4, 1, 8), 0x0112: (3, 1, 1)})[:-4] + struct.pack("<I", 8)
    many = b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x8769, 4, 2**32 - 1, 8) * 5_000
    profile = profiles.of_primaries(profiles.P3, 2.2)
    bomb = zlib.compress(bytes(2**24)) * 20
    return {
        "Exif that loops": Good(jpeg(PICTURE, exif=exif + loop), PICTURE, 6),
        "Exif of huge counts, JPEG": Good(jpeg(PICTURE, exif=exif + many), PICTURE, 6),
        "Exif of huge counts, PNG": Good(after_header(png_chunk(b"eXIf", many * 10)), PICTURE),
        "Exif of huge counts, WebP": Good(encode(PICTURE, "WEBP", quality=95, exif=exif + many), PICTURE, 6),
        "Exif of huge counts, AVIF": Good(avif_with_exif(many), PICTURE, 6),
        "ICC profile cut off": Good(profiles.in_jpeg(FILES["JPEG"], profile[:200]), PICTURE, 6),
        "ICC profile of noise": Good(profiles.in_png(FILES["PNG"], b"\xff" * 5_000), PICTURE),
        "ICC profile that unpacks to 320 MB": Good(after_header(png_chunk(b"iCCP", b"a\0\0" + bomb)), PICTURE),
        "text that unpacks to 320 MB": Good(after_header(png_chunk(b"zTXt", b"a\0\0" + bomb)), PICTURE),
        "pixels that unpack to 320 MB": Good(png_with_spare(), PICTURE),
        "JPEG and ZIP": Good(FILES["JPEG"] + b"PK\3\4" + bytes(1000) + b"PK\5\6" + bytes(18), PICTURE, 6),
        "GIF and JavaScript": Good(FILES["GIF"] + b"*/=1;alert(document.cookie)//", PICTURE, 6),
        "PNG and HTML": Good(after_header(png_chunk(b"tEXt", b"Comment\0<html><script>alert(1)</script>")), PICTURE),
        "JPEG and a video": Good(FILES["JPEG"] + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 9_000, PICTURE, 6),
    }


def _large() -> dict[str, Bad | Good]:
    """Dimensions beyond the limits, and none."""
    square = {262: (3, 1, 1), 273: (4, 1, 8), 258: (3, 1, 8), 278: (4, 1, 50_000), 279: (4, 1, 8)}
    return {
        "PNG of 30,000 × 30,000": Bad([images.png_bomb()], "pixels exceed"),
        "JPEG of 65,500 × 65,500": Bad([images.jpeg_of_size(65_500, 65_500)], "pixels exceed"),
        "arithmetic-coded JPEG of 65,500 × 65,500": Bad([arithmetic(65_500, 65_500)], "pixels exceed"),
        "GIF with a frame of 60,000 × 50,000": Bad([images.gif_of_size(60_000, 50_000)], "pixels exceed"),
        "WebP with a canvas of 16,777,216 × 9": Bad([images.webp_of_size(2**24, 9)], "pixels exceed"),
        "lossless WebP of 16,384 × 16,384": Bad([lossless_webp(16_384, 16_384)], "pixels exceed"),
        "TIFF of 50,000 × 50,000": Bad([tiff({256: (4, 1, 50_000), 257: (4, 1, 50_000), **square})], "pixels exceed"),
        "BMP of 1,000,000 × 10": Bad([images.bmp_of_size(10**6, 10)], "pixels exceed"),
        "AVIF of 60,000 × 60,000": Bad([avif_of_size(60_000, 60_000)], "pixels exceed|Failed to decode"),
        "AVIF whose frame is larger than it says": Bad([avif_of_large_frame()], "pixels exceed"),
        "TIFF with a tile of 65,520 × 65,520": Bad([tiled_tiff(65_520)], "tiles of"),
        "no width or no height": Bad(
            [
                images.jpeg_of_size(0, 10),
                images.jpeg_of_size(10, 0),
                images.bmp_of_size(0, 10),
                tiff({256: (4, 1, 0), 257: (4, 1, 9), **square}),
                empty_png(0, 9),
                lossy_webp(0, 9),
            ],
            "an image of|truncated",
        ),
    }


def _endless() -> dict[str, Bad | Good]:
    """More parts than anybody needs, within the limit of bytes."""
    progressive = jpeg(Image.new("L", (2_000, 2_000)), progressive=True)[:-2]
    scans = b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 9_000 + b"\xff\xd9"
    tables = b"\xff\xdb" + struct.pack(">H", 2 + 65 * 1_000) + (b"\0" + b"\1" * 64) * 1_000
    return {
        "JPEG of 9,000 scans": Bad([progressive + scans], "scans"),
        "JPEG of endless segments": Bad([b"\xff\xd8" + b"\xff\xe1\0\x08Exif\0\0" * 300_000], "segments"),
        "JPEG of endless tables": Bad([b"\xff\xd8" + tables * 400 + FILES["JPEG"][2:]], "tables"),
        "PNG of endless chunks": Bad([FILES["PNG"][:33] + png_chunk(b"tEXt", b"") * 200_000], "chunks"),
        "PNG of endless pixels' chunks": Bad([FILES["PNG"][:33] + png_chunk(b"IDAT", b"") * 200_000], "chunks"),
        "GIF of endless blocks": Bad([b"GIF89a" + bytes(7) + b"!\xfe" + b"\1x" * 1_000_000], "blocks"),
        "GIF of endless frames": Good(FILES["GIF"][:-1] + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0" * 1_000_000, PICTURE, 6),
        "WebP of endless chunks": Bad([webp_of_chunks(b"xxxx\0\0\0\0" * 300_000)], "chunks"),
        "WebP of endless frames": Bad([webp_of_frames(100_000)], "chunks"),
        "TIFF of endless strips": Bad([tiff({273: (4, MAX_PARTS + 1, 8), 256: (4, 1, 9), 257: (4, 1, 9)})], "strips"),
        "TIFF of endless tags": Good(tiff_of_tags(), PICTURE),
        "TIFF of JPEG of 9,000 scans": Bad([jpeg_tiff(progressive + scans, 2_000, 2_000)], "scans"),
        "TIFF of unpacked bombs": Good(deflated_tiff(), PICTURE),
        "AVIF of endless boxes": Bad([FILES["AVIF"] + b"\0\0\0\x08free" * 300_000], "boxes"),
        "AVIF of boxes in boxes": Bad([nested_boxes()], "without a still picture|bytes of lists|truncated"),
        "AVIF of endless items": Bad([avif_of_items(100_000)], "lists of items"),
        "AVIF of endless properties": Bad([avif_of_properties(2_000)], "properties"),
        "AVIF of endless frames": Bad([avif_of_frames(20_000)], "16 frames"),
        "AVIF of endless samples": Good(avif_of_samples(2_000_000), PICTURE, 6),
    }


def _damaged() -> dict[str, Bad | Good]:
    """Cut after every tenth, and the first bytes alone."""
    cut = {
        f"{name} cut off at every tenth": Bad(
            [data[: len(data) * tenth // 10] for tenth in range(1, 10)], "truncated|not an image"
        )
        for name, data in FILES.items()
    }
    magic = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*", b"BM"]
    return {
        **cut,
        "first bytes alone": Bad([*magic, b"\0\0\0\x1cftypavif"], "truncated"),
        "no bytes": Bad([b""], "empty"),
        "a zero": Bad([b"\0"], "not an image"),
        "PNG that is a JPEG": Bad([FILES["PNG"][:8] + FILES["JPEG"]], "truncated PNG"),
        "JPEG that is a PNG": Bad([b"\xff\xd8\xff" + FILES["PNG"]], "JPEG"),
        "GIF that is HTML": Bad([b"GIF89a<html><script>alert(1)</script></html>"], "pixels exceed"),
    }


def _nonsense() -> dict[str, Bad | Good]:
    """Whole files that say what cannot be, or what is not read."""
    sizes = {256: (4, 1, 96), 257: (4, 1, 64), 258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    strips = {
        "outside": {273: (4, 1, 2**31), 279: (4, 1, 96 * 64)},
        "of no rows": {273: (4, 1, 8), 278: (4, 1, 0), 279: (4, 1, 96 * 64)},
        "too long": {273: (4, 1, 8), 279: (4, 1, 2**32 - 1), 259: (3, 1, 5)},
        "of no integers": {273: (11, 1, 8), 279: (4, 1, 96 * 64)},
        "nowhere": {279: (4, 1, 96 * 64)},
    }
    frame = FILES["JPEG"].index(b"\xff\xc0")
    kinds = {
        name: FILES["JPEG"][:frame] + change + FILES["JPEG"][frame + len(change) :]
        for name, change in {
            "12-bit": b"\xff\xc0\0\x11\x0c",
            "lossless": b"\xff\xc3",
            "hierarchical": b"\xff\xde",
            "two-layer": b"\xff\xc0\0\x11\x08" + FILES["JPEG"][frame + 5 : frame + 9] + b"\2",
        }.items()
    }
    return {
        **{f"TIFF of strips {name}": Bad([tiff({**sizes, **tags})], "TIFF") for name, tags in strips.items()},
        **{f"{name} JPEG": Bad([data], "JPEG") for name, data in kinds.items()},
        "TIFF of a rare compression": Bad([tiff({**sizes, 259: (3, 1, 34_712), 273: (4, 1, 8)})], "compression 34712"),
        "float TIFF": Bad([encode(Image.new("F", (9, 9), 0.5), "TIFF")], "32 bits"),
        "run-length BMP": Bad([images.bmp_of_size(9, 9, compression=1)], "run-length"),
    }


def _others() -> dict[str, Bad | Good]:
    """Formats that are not read, each named."""
    return {
        "JPEG 2000": Bad([encode(PICTURE, "JPEG2000")], "JPEG 2000 is not"),
        "HEIC": Bad([b"\0\0\0\x18ftypheic" + bytes(100)], "HEIC is not"),
        "SVG": Bad([b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?><svg/>"], "SVG is not"),
        "PSD": Bad([b"8BPS\0\1" + bytes(100)], "PSD is not"),
        "PDF": Bad([encode(PICTURE, "PDF")], "PDF is not"),
        "EPS": Bad([encode(PICTURE, "EPS")], "EPS is not"),
        "ICO": Bad([encode(PICTURE, "ICO")], "ICO is not"),
        "BigTIFF": Bad([encode(PICTURE, "TIFF", big_tiff=True)], "BigTIFF is not"),
        "ZIP": Bad([b"PK\3\4" + bytes(100)], "ZIP is not"),
        "HTML": Bad([b"<!DOCTYPE html><img src=x>"], "HTML is not"),
    }


# --- Odd files ------------------------------------------------------------------------------------------------


def arithmetic(width: int, height: int) -> bytes:
    """A JPEG of arithmetic coding without data, which stands for zeros: its first block is grey."""
    table = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc9\0\x0b\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"
    return b"\xff\xd8" + table + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\xff\xd9"


def everything() -> tuple[bytes, Image.Image, float]:
    """The most that a picture can ask for: a long WebP that is transparent, turned and of another profile."""
    colour, alpha = (200, 40, 40), 102
    _, exif = images.oriented(PICTURE, 6)
    image = Image.new("RGBA", (1_000, 8_000), (*colour, alpha))
    profile = profiles.of_primaries(profiles.P3, 2.2)
    shown = profiles.in_srgb(np.array(colour, np.uint8), profiles.P3, 2.2) * alpha / 255 + 255 - alpha
    red, green, blue = (round(float(level)) for level in shown)
    data = encode(image, "WEBP", lossless=True, method=0, icc_profile=profile, exif=exif)
    return data, Image.new("RGB", (8_000, 1_000), (red, green, blue)), 2


def without_restart() -> bytes:
    data = jpeg(PICTURE, restart_marker_rows=1)
    at = data.index(b"\xff\xd1")
    return data[:at] + data[at + 2 :]


def after_header(chunk: bytes) -> bytes:
    return FILES["PNG"][:33] + chunk + FILES["PNG"][33:]


def png_with_spare() -> bytes:
    """A PNG whose pixels are followed, in the same compressed stream, by 320 MB that nobody needs."""
    pixels = np.asarray(PICTURE)
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(b"\0" + row.tobytes()) for row in pixels)
    data = rows + b"".join(squeeze.compress(bytes(2**24)) for _ in range(20)) + squeeze.flush()
    return FILES["PNG"][:33] + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def empty_png(width: int, height: int) -> bytes:
    return images.png((width, height), 8, 2, iter([b""]))


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def lossless_webp(width: int, height: int) -> bytes:
    return riff(b"VP8L" + struct.pack("<IBI", 5, 0x2F, width - 1 | height - 1 << 14) + b"\0")


def lossy_webp(width: int, height: int) -> bytes:
    return riff(b"VP8 " + struct.pack("<I", 10) + b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height))


def webp_of_chunks(chunks: bytes) -> bytes:
    return riff(FILES["WebP"][12:] + chunks)


def webp_of_frames(count: int) -> bytes:
    """An animation of one pixel, many times."""
    still = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    head = b"VP8X" + struct.pack("<I", 10) + b"\2" + bytes(9) + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    frame = b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(16) + still
    return riff(head + frame * count)


def tiled_tiff(side: int) -> bytes:
    tile = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 200), 325: (4, 1, 5_000)}
    tags = {256: (4, 1, 16), 257: (4, 1, 16), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), **tile}
    return tiff(tags).ljust(200, b"\0") + zlib.compress(bytes(5_000_000))


def jpeg_tiff(strip: bytes, width: int, height: int) -> bytes:
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 7), 262: (3, 1, 1)}
    return tiff({**tags, 273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, len(strip))}).ljust(200, b"\0") + strip


def deflated_tiff() -> bytes:
    """A strip whose compressed stream goes on for 320 MB after the last row."""
    squeeze = zlib.compressobj(9)
    strip = squeeze.compress(np.asarray(PICTURE).tobytes())
    strip += b"".join(squeeze.compress(bytes(2**24)) for _ in range(20)) + squeeze.flush()
    width, height = PICTURE.size
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 3, 194), 259: (3, 1, 8), 262: (3, 1, 2), 277: (3, 1, 3)}
    tags |= {273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, len(strip))}
    return tiff(tags).ljust(194, b"\0") + struct.pack("<3H", 8, 8, 8) + strip


def tiff_of_tags() -> bytes:
    """A directory of 65,000 tags, each of which points to the whole file."""
    width, height = PICTURE.size
    at = 8 + 2 + 12 * 65_000 + 4
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 3, at), 262: (3, 1, 2), 277: (3, 1, 3)}
    tags |= {273: (4, 1, at + 6), 278: (4, 1, height), 279: (4, 1, width * height * 3)}
    spare = {number: (7, 10, 8) for number in range(300, 65_535) if number not in (*tags, 317, 320, 338, 339, 34675)}
    for number in list(spare)[: 65_000 - len(tags)]:
        tags[number] = (
            spare[number] if not 322 <= number <= 325 and number not in (347, *range(529, 533)) else (7, 1, 0)
        )
    drop = [number for number in (322, 323, 324, 325, 332, 347, *range(529, 533)) if number in tags]
    for number in drop:
        del tags[number]
    return tiff(tags).ljust(at, b"\0") + struct.pack("<3H", 8, 8, 8) + np.asarray(PICTURE).tobytes()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def nested_boxes() -> bytes:
    """A hundred thousand boxes, each in the one before."""
    depth = 100_000
    inner = b"".join(struct.pack(">I", 8 * (depth - level)) + b"meta" for level in range(depth))
    return FILES["AVIF"][: struct.unpack(">I", FILES["AVIF"][:4])[0]] + inner


def avif_of_size(width: int, height: int) -> bytes:
    data = bytearray(FILES["AVIF"])
    struct.pack_into(">II", data, data.index(b"ispe") + 8, width, height)
    return bytes(data)


def avif_of_large_frame() -> bytes:
    """Its AV1 says 65,536 × 65,536, while its boxes say what they should."""
    header = int("000" + "1" + "1" + "11111" + "1111" * 2 + "1" * 32, 2) << 7
    unit = bytes((1 << 3 | 2, 7)) + header.to_bytes(7, "big")
    return _with_item(unit)


def avif_of_frames(count: int) -> bytes:
    """The frame of a picture, many times in one item."""
    start, length = _item()
    return _with_item(FILES["AVIF"][start : start + length] * (count // 10))


def avif_with_exif(exif: bytes) -> bytes:
    """Exif of Pillow's own, written over in place."""
    own = Image.Exif()
    own[0x010E] = "x" * len(exif)
    data = encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4", exif=own)
    at = data.index(b"MM\0*")
    return data[:at] + exif + data[at + len(exif) :]


def _item() -> tuple[int, int]:
    """Where the first item of the plain AVIF lies."""
    at = FILES["AVIF"].index(b"iloc") + 4
    return struct.unpack_from(">II", FILES["AVIF"], at + 14)


def _with_item(stream: bytes) -> bytes:
    """The plain AVIF with other bytes for its picture, at the file's end."""
    data = bytearray(FILES["AVIF"])
    struct.pack_into(">II", data, data.index(b"iloc") + 18, len(data) + 8, len(stream))
    return bytes(data) + box(b"mdat", stream)


def avif_of_items(count: int) -> bytes:
    """As many items, none of which holds anything."""
    entries = b"".join(struct.pack(">IHH", number, 0, 0) for number in range(2, count + 2))
    return _with_box(b"iloc", b"\2\0\0\0\0\0" + struct.pack(">I", count) + entries)


def avif_of_properties(count: int) -> bytes:
    return _with_box(b"ipco", b"\0\0\0\x08free" * count)


def _with_box(kind: bytes, content: bytes) -> bytes:
    """The plain AVIF, one of whose boxes has other content; the boxes around it grow with it."""
    data = FILES["AVIF"]
    at = data.index(kind) - 4
    (size,) = struct.unpack_from(">I", data, at)
    new = box(kind, content)
    grown = bytearray(data[:at] + new + data[at + size :])
    for outer in (b"meta", b"iprp") if kind == b"ipco" else (b"meta",):
        start = grown.index(outer) - 4
        (length,) = struct.unpack_from(">I", grown, start)
        struct.pack_into(">I", grown, start, length + len(new) - size)
    return bytes(grown)


def avif_of_samples(count: int) -> bytes:
    """An animation whose table of samples claims very many."""
    data = encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4", save_all=True, append_images=[BLACK])
    changed = bytearray(data)
    struct.pack_into(">II", changed, data.index(b"stsz") + 8, 1, count)
    return bytes(changed)


# --- Running --------------------------------------------------------------------------------------------------


def attempt(data: bytes) -> tuple[str, Image.Image | None]:
    try:
        return "decoded", decode(data, LIMITS, TARGET)
    except InvalidArgument as error:
        return f"INVALID_ARGUMENT: {error.message}", None


def run(kind: str) -> Outcome:
    """Decode the files of a kind, each in a process of its own, and tell the worst."""
    case = corpus()[kind]
    files = [case.file] if isinstance(case, Good) else case.files
    outcomes = [_alone(kind, case, data) for data in files]
    return max(outcomes, key=lambda outcome: (bool(outcome.wrong), outcome.cpu))


def _alone(kind: str, case: Bad | Good, data: bytes) -> Outcome:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as out:
            json.dump(asdict(_measured(kind, case, data)), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        died = signal.Signals(status & 127).name if status & 127 else f"exit status {status >> 8}"
        return Outcome(kind, died, 0, 0, f"the process died: {died}")
    return Outcome(**json.loads(text))


def _measured(kind: str, case: Bad | Good, data: bytes) -> Outcome:
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is counted
    before, start = _kib("VmRSS"), time.process_time()
    status, image = attempt(data)
    cpu, memory = time.process_time() - start, (_kib("VmHWM") - before) * 1024
    pixels = image.width * image.height if image else 0
    wrong = _wrong(case, status, image)
    if memory > 2 * len(data) + BYTES_A_PIXEL * pixels + SPARE_BYTES:
        wrong = wrong or f"{memory:,} bytes of memory for {len(data):,} bytes"
    if isinstance(case, Bad) and cpu > CPU_SECONDS:
        wrong = wrong or f"{cpu:.2f} seconds"
    return Outcome(kind, status, cpu, memory, wrong)


def _wrong(case: Bad | Good, status: str, image: Image.Image | None) -> str:
    if isinstance(case, Bad):
        return "" if image is None and re.search(case.why, status) else f"{status}, not refused by {case.why!r}"
    if image is None:
        return f"refused: {status}"
    off = images.difference(image, case.picture)
    return "" if off <= case.within else f"differs by {off:.1f} levels"


def _kib(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def outcomes() -> Iterator[Outcome]:
    """Run the whole corpus in a process that has decoded nothing."""
    program = [sys.executable, "-m", "tests.server.corpus", "--json"]
    done = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True)
    return (Outcome(**json.loads(line)) for line in done.stdout.splitlines())


def main() -> None:
    as_json = "--json" in sys.argv
    corpus()
    if not as_json:
        print("| kind | status | CPU ms | peak memory, MB |\n|---|---|---:|---:|")
    for kind in corpus():
        outcome = run(kind)
        if as_json:
            print(json.dumps(asdict(outcome)), flush=True)
        else:
            shown = f"{outcome.status}: WRONG: {outcome.wrong}" if outcome.wrong else outcome.status
            print(f"| {kind} | {shown} | {outcome.cpu * 1e3:.0f} | {outcome.memory / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
