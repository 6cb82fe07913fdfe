"""TIFF: directories of tags that say where strips or tiles of pixels lie."""

import struct
from typing import NamedTuple

from vitrail.server.formats.limits import (
    MAX_PARTS,
    MAX_PROFILE_BYTES,
    ImageLimits,
    Parts,
    Refused,
    check_size,
    check_work,
)

WIDTH, LENGTH, BITS, COMPRESSION, SAMPLES, ROWS, TILE_WIDTH, TILE_LENGTH = 256, 257, 258, 259, 277, 278, 322, 323
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
PHOTOMETRIC, WHITE_IS_ZERO, ORIENTATION, PROFILE = 262, 0, 274, 34675
# What pixels need: sizes, types, compression, strips or tiles, palette, transparency, how JPEG and CCITT are meant.
KEPT = {
    *(WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, 266, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, 284),
    *(292, 293, 317, 320, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES, 332, 338, 339, 347, 529, 530, 531, 532),
}
# A tile larger than a small image is read as long as it costs little.
MAX_SPARE_PIXELS = 2**21
# Of a directory, which lists tags in the order of their numbers; what is behind is nothing that we read.
MAX_TAGS = 1_024
JPEG = 7
# By number, for the message of what is not among them. Rare ones decode with libraries of their own, or in Python.
COMPRESSIONS = {
    1: "none",
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    5: "LZW",
    JPEG: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I"}


class Tag(NamedTuple):
    """One entry of a directory; `value` has 4 bytes: what the tag says, or the offset of where it is said."""

    number: int
    type: int
    length: int
    value: bytes


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave the first directory alone, with the tags that pixels need, and refuse strips that cost more than they hold.

    Strips and tiles are decoded into memory of their own, whatever they contribute to the picture.
    """
    order = "<" if data.startswith(b"II") else ">"
    tags: dict[int, Tag] = {}
    for tag in directory(data):
        tags.setdefault(tag.number, tag)
    offsets = _offsets(data, order, tags)
    width, length = _integer(data, order, tags, WIDTH), _integer(data, order, tags, LENGTH)
    check_size((width, length), limits)
    compression = _integer(data, order, tags, COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise Refused(f"TIFF image of compression {compression}, which is not read here ({known})")
    part = width * min(length, _integer(data, order, tags, ROWS, length))
    if TILE_WIDTH in tags:
        part = _integer(data, order, tags, TILE_WIDTH) * _integer(data, order, tags, TILE_LENGTH)
        if part > max(width * length, MAX_SPARE_PIXELS):
            raise Refused(f"TIFF image with tiles of {part:,} pixels, more than its own")
        check_work(part * len(offsets), limits)
    if compression == JPEG:
        lengths = _integers(data, order, tags, TILE_BYTES if TILE_WIDTH in tags else STRIP_BYTES)
        check_work(part * _scans(data, offsets, lengths), limits)
    profile = b""
    if PROFILE in tags and tags[PROFILE].length <= MAX_PROFILE_BYTES:
        profile = _bytes(data, order, tags[PROFILE])
    return Parts(_with_directory(data, order, [tag for tag in tags.values() if tag.number in KEPT]), profile=profile)


def directory(data: bytes) -> list[Tag]:
    """List the first `MAX_TAGS` tags of a TIFF's first directory."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "4xI", data)
    (entries,) = struct.unpack_from(order + "H", data, start)
    places = range(start + 2, start + 2 + 12 * min(entries, MAX_TAGS), 12)
    return [Tag(*struct.unpack_from(order + "HHI4s", data, place)) for place in places]


def _with_directory(data: bytes, order: str, tags: list[Tag]) -> bytes:
    """The file with a shorter directory, the last one, in the place of its first."""
    written = [struct.pack(order + "H", len(tags)), *(struct.pack(order + "HHI4s", *tag) for tag in tags), bytes(4)]
    (start,) = struct.unpack_from(order + "4xI", data)
    if start < 8:
        raise Refused("damaged TIFF image: its directory lies in its header")
    new = b"".join(written)
    return b"".join([data[:start], new, memoryview(data)[start + len(new) :]])


def _offsets(data: bytes, order: str, tags: dict[int, Tag]) -> tuple[int, ...]:
    """Where the strips or tiles lie."""
    for number in (STRIP_OFFSETS, TILE_OFFSETS):
        if number in tags and tags[number].length > MAX_PARTS:  # Pillow loops over them
            count = tags[number].length
            raise Refused(f"TIFF image with {count:,} strips or tiles exceeds the limit of {MAX_PARTS:,}")
    return _integers(data, order, tags, TILE_OFFSETS if TILE_WIDTH in tags else STRIP_OFFSETS)


def _scans(data: bytes, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> int:
    """Count the scans of all strips, each of which is a JPEG image."""
    if len(lengths) != len(offsets) or sum(lengths) > len(data):
        raise Refused("damaged or truncated TIFF image: strips that do not fit into the file")
    spans = zip(offsets, lengths, strict=True)
    return sum(data.count(b"\xff\xda", offset, offset + length) for offset, length in spans)


def _integer(data: bytes, order: str, tags: dict[int, Tag], number: int, default: int | None = None) -> int:
    if default is not None and number not in tags:
        return default
    return _integers(data, order, tags, number)[0]


def _integers(data: bytes, order: str, tags: dict[int, Tag], number: int) -> tuple[int, ...]:
    if number not in tags or tags[number].type not in _INTEGERS:
        raise Refused(f"damaged TIFF image: no number in tag {number}")
    tag = tags[number]
    return struct.unpack(f"{order}{tag.length}{_INTEGERS[tag.type]}", _bytes(data, order, tag))


def _bytes(data: bytes, order: str, tag: Tag) -> bytes:
    size = tag.length * _SIZES[tag.type]
    if size <= 4:
        return tag.value[:size]
    (start,) = struct.unpack(order + "I", tag.value)
    return data[start : start + size]
