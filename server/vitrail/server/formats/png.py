"""PNG: chunks."""

import struct
import zlib

from vitrail.server.formats.limits import MAX_PARTS, MAX_PROFILE_BYTES, ImageLimits, Parts, Refused


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave the chunks that make the first picture."""
    view, exif, profile, at = memoryview(data), b"", b"", 8
    kept = [view[:8]]
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(view[at:end])
        elif kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        elif kind == b"iCCP":
            profile = _unpacked(data[at + 8 : end - 4])
        if kind == b"IEND" or end >= len(data):
            return Parts(b"".join(kept), exif, profile)
        at = end
    raise Refused(f"PNG image with more than {MAX_PARTS:,} chunks")


def _unpacked(chunk: bytes) -> bytes:
    """A profile behind its name and its method of compression; one that is damaged or too large is as good as none."""
    packed = chunk.partition(b"\0")[2][1:]
    try:
        profile = zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""
