"""JPEG: segments, then one scan or several with more segments between them."""

import re
import struct

from vitrail.server.formats.limits import (
    MAX_PARTS,
    MAX_PROFILE_BYTES,
    ImageLimits,
    Parts,
    Refused,
    check_size,
    check_work,
)

# Tables of quantisation and of Huffman codes have some 2 KB. Pillow works through the former in Python.
MAX_TABLE_BYTES = 2**16
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
SCAN, END, ADOBE = 0xDA, 0xD9, 0xEE
# A marker that has a length: no padding, no restart, and no 0xFF of a scan's own data.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_PROFILE = b"ICC_PROFILE\0"


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave out what applications added, and refuse more scans than fit into the limits."""
    view, exif, at, tables, pixels, several = memoryview(data), b"", 2, 0, 0, True
    kept, profiles = [view[:2]], list[bytes]()
    for _ in range(MAX_PARTS):
        at, marker = _next(data, at)
        if marker == SCAN:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if marker in FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            check_size((width, height), limits)
            pixels, several = width * height, marker in PROGRESSIVE
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            exif = exif or data[at + 4 : end]
        elif marker == 0xE2 and data.startswith(_PROFILE, at + 4):
            profiles.append(data[at + 4 + len(_PROFILE) : end])
        elif not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == ADOBE:  # it says how CMYK is meant
            kept.append(view[at:end])
            tables += length
            if tables > MAX_TABLE_BYTES:
                raise Refused(f"JPEG image with more than {MAX_TABLE_BYTES:,} bytes of tables")
        at = end
    else:
        raise Refused(f"JPEG image with more than {MAX_PARTS:,} segments")
    if several or data[at + 4] != components:  # libjpeg reads nothing behind a single scan
        check_work(_scans(data, at) * pixels, limits)
    return Parts(b"".join([*kept, view[at:]]), exif, _joined(profiles))


def _next(data: bytes, at: int) -> tuple[int, int]:
    """Where the next marker that has a length stands, and which it is."""
    found = _MARKER.search(data, at)
    if not found:
        raise Refused("damaged or truncated JPEG image: no further marker")
    return found.start(), found[1][0]


def _scans(data: bytes, at: int) -> int:
    """Count the scans up to the image's end or the file's, as libjpeg finds them."""
    scans = 0
    for _ in range(MAX_PARTS):
        at, marker = _next(data, at)
        if marker == END:
            return scans
        scans += marker == SCAN
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    raise Refused(f"JPEG image with more than {MAX_PARTS:,} scans and segments between them")


def _joined(parts: list[bytes]) -> bytes:
    """A profile from its numbered parts; one that is incomplete is as good as none."""
    parts = sorted(parts)
    numbers = [part[:1] for part in parts]
    if numbers != [bytes([number + 1]) for number in range(min(len(parts), 255))]:
        return b""
    if any(part[1:2] != numbers[-1] for part in parts) or sum(map(len, parts)) > MAX_PROFILE_BYTES:
        return b""
    return b"".join(part[2:] for part in parts)
