"""AVIF: boxes in boxes that say where the items lie, each of them frames of AV1."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vitrail.server.formats.limits import MAX_PARTS, ImageLimits, Parts, Refused, check_size, check_work

# Of each box that lists items; 700 of them fit. libavif compares every item with every other.
MAX_LIST_BYTES = 2**14
MAX_PROPERTIES = 1_024
# Of an item: one, or one of each layer. What is hidden is decoded as well.
MAX_FRAMES = 16
SEQUENCE_HEADER, FRAMES = 1, (3, 6)


class Box(NamedTuple):
    """A box of the kind `kind`, whose content lies in start … end."""

    kind: bytes
    start: int
    end: int


class Item(NamedTuple):
    """Where an item's bytes lie, in the file or (`inner`) in the box idat."""

    number: int
    inner: bool
    extents: list[tuple[int, int]]


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave the still picture alone, and refuse frames that are larger or more than the limits allow.

    The tables of an animation and Exif are renamed, not removed, since everything else is found by its offset. What
    turns the picture is not in Exif, but in properties.
    """
    top = list(_boxes(data, 0, len(data)))
    metas = [box for box in top if box.kind == b"meta"]
    if not metas:
        raise Refused("AVIF image without a still picture")
    inside = {box.kind: box for box in _boxes(data, metas[0].start + 4, metas[0].end)}
    lists = [box for kind, box in inside.items() if kind not in (b"iprp", b"idat")]
    if b"iprp" in inside:
        for box in _boxes(data, inside[b"iprp"].start, inside[b"iprp"].end):
            if box.kind != b"ipco":
                lists.append(box)
            elif sum(1 for _ in _boxes(data, box.start, box.end)) > MAX_PROPERTIES:
                raise Refused(f"AVIF image with more than {MAX_PROPERTIES:,} properties")
    if any(box.end - box.start > MAX_LIST_BYTES for box in lists):
        raise Refused(f"AVIF image with more than {MAX_LIST_BYTES:,} bytes of lists of items")
    _check_frames(data, inside, limits)
    return Parts(_renamed(data, top, inside[b"iinf"]))


def _boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    for _ in range(MAX_PARTS):
        if at >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = at + size if size else end
        if not start <= stop <= end:
            raise Refused("truncated AVIF image: a box that does not fit into the one around it")
        yield Box(kind, start, stop)
        at = stop
    raise Refused(f"AVIF image with more than {MAX_PARTS:,} boxes")


def _renamed(data: bytes, top: list[Box], infos: Box) -> bytes:
    parts, done = list[bytes | memoryview](), 0
    view = memoryview(data)
    for box in sorted([*top, infos], key=lambda box: box.start):
        if box.kind == b"ftyp":  # an animation promises tables
            parts += [view[done : box.start], data[box.start : box.end].replace(b"avis", b"avif")]
            done = box.end
        elif box.kind == b"iinf":
            parts += [view[done : box.start], data[box.start : box.end].replace(b"Exif", b"left")]
            done = box.end
        elif box.kind == b"moov":
            name = data.rindex(b"moov", 0, box.start)  # before a length of 64 bits, if there is one
            parts += [view[done:name], b"free"]
            done = name + 4
    return b"".join([*parts, view[done:]])


def _check_frames(data: bytes, inside: dict[bytes, Box], limits: ImageLimits) -> None:
    """AV1 says by itself how large its frames are and how many: more than the container tells, if it is hostile."""
    coded = set(_coded(data, inside[b"iinf"]))
    inner = inside.get(b"idat", Box(b"idat", 0, 0))
    copied, pixels, parts = 0, 0, 0
    for item in _items(data, inside[b"iloc"]):
        start, end = (inner.start, inner.end) if item.inner else (0, len(data))
        spans = [
            (start + offset, min(start + offset + length, end) if length else end) for offset, length in item.extents
        ]
        if len(spans) > 1:  # libavif joins them
            copied += sum(max(stop - at, 0) for at, stop in spans)
            if copied > len(data):
                raise Refused("AVIF image whose items hold more bytes than the file")
        if item.number not in coded:
            continue
        stream = b"".join(data[at:stop] for at, stop in spans)
        area, frames = 0, 0
        for kind, content in _obus(stream):
            parts, frames = parts + 1, frames + (kind in FRAMES)
            if parts > MAX_PARTS or frames > MAX_FRAMES:
                raise Refused(f"AVIF image with more than {MAX_PARTS:,} parts or {MAX_FRAMES} frames in an item")
            if kind == SEQUENCE_HEADER:
                width, height = _largest(content)
                check_size((width, height), limits)
                area = width * height
            pixels += area * (kind in FRAMES)
    check_work(pixels, limits)


def _coded(data: bytes, box: Box) -> Iterator[int]:
    """Numbers of the items that are AV1."""
    start = box.start + (8 if data[box.start] else 6)
    for info in _boxes(data, start, box.end):
        version = data[info.start]
        number, kind = struct.unpack_from(">I2x4s" if version == 3 else ">H2x4s", data, info.start + 4)
        if kind == b"av01":
            yield number


def _items(data: bytes, box: Box) -> Iterator[Item]:
    version, sizes, more = data[box.start], data[box.start + 4], data[box.start + 5]
    offset_size, length_size, base_size, index_size = sizes >> 4, sizes & 15, more >> 4, more & 15 if version else 0
    at = box.start + 6

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > box.end:
            raise Refused("truncated AVIF image: a list of items that is cut off")
        return int.from_bytes(data[at - size : at], "big")

    wide = 4 if version == 2 else 2
    for _ in range(read(wide)):
        number = read(wide)
        inner = read(2) & 15 == 1 if version else False
        read(2)
        base, extents = read(base_size), []
        for _ in range(read(2)):
            read(index_size)
            extents.append((base + read(offset_size), read(length_size)))
        yield Item(number, inner, extents)


def _obus(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and first bytes of each of AV1's units."""
    at = 0
    while at < len(stream):
        header = stream[at]
        at += 2 if header & 4 else 1
        length = len(stream) - at
        if header & 2:
            length = 0
            for shift in range(0, 56, 7):
                length |= (stream[at] & 0x7F) << shift
                at += 1
                if not stream[at - 1] & 0x80:
                    break
        yield header >> 3 & 15, stream[at : at + min(length, 64)]
        at += length


def _largest(header: bytes) -> tuple[int, int]:
    """Width and height that a sequence header (AV1, 5.5.1) allows its frames."""
    value, left = int.from_bytes(header, "big"), 8 * len(header)

    def read(bits: int) -> int:
        nonlocal left
        left -= bits
        if left < 0:
            raise Refused("truncated AVIF image: a header that is cut off")
        return value >> left & (1 << bits) - 1

    read(4)
    if read(1):  # a still picture, whose header is short
        read(5)
    else:
        if read(1):
            raise Refused("AVIF image with times of its frames is not supported")
        delayed = read(1)
        for _ in range(read(5) + 1):
            read(12)
            if read(5) > 7:
                read(1)
            if delayed and read(1):
                read(4)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    return read(width_bits) + 1, read(height_bits) + 1
