"""PNG: chunks."""

import struct
import zlib

from vitrail.server.formats.limits import MAX_PARTS, MAX_PROFILE_BYTES, ImageLimits, Parts, Refused

# Types of pixels, as the header numbers them.
GREY, RGB = 0, 2


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave the chunks that make the first picture."""
    view, exif, profile, at = memoryview(data), b"", b"", 8
    kept: list[bytes | memoryview] = [view[:8]]
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"tRNS":
            kept.append(_transparent(data, data[at + 8 : end - 4]))
        elif kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(view[at:end])
        elif kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        elif kind == b"iCCP":
            profile = _unpacked(data[at + 8 : end - 4])
        if kind == b"IEND" or end >= len(data):
            return Parts(b"".join(kept), exif, profile)
        at = end
    raise Refused(f"PNG image with more than {MAX_PARTS:,} chunks")


def _transparent(data: bytes, chunk: bytes) -> bytes:
    """The chunk tRNS; a transparent colour in 8 bits a sample, since Pillow compares it with such samples.

    Of samples of 48-bit pixels the upper halves are compared: Pillow has lost the lower ones.
    """
    depth, colour = data[24], data[25]
    if colour == GREY and depth in (2, 4):
        chunk = struct.pack(">H", struct.unpack(">H", chunk)[0] * 255 // (2**depth - 1))
    elif colour == RGB and depth == 16:
        chunk = struct.pack(">3H", *(value >> 8 for value in struct.unpack(">3H", chunk)))
    kind = b"tRNS" + chunk
    return struct.pack(">I", len(chunk)) + kind + struct.pack(">I", zlib.crc32(kind))


def _unpacked(chunk: bytes) -> bytes:
    """A profile behind its name and its method of compression; one that is damaged or too large is as good as none."""
    packed = chunk.partition(b"\0")[2][1:]
    try:
        profile = zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""
