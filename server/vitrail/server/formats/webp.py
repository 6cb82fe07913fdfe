"""WebP: chunks of RIFF."""

import struct

from vitrail.server.formats.limits import MAX_PARTS, MAX_PROFILE_BYTES, ImageLimits, Parts, Refused, check_size

ALPHA, ANIMATION = 0x10, 0x02


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Check the canvas, which libwebp allocates as soon as the file is opened, and leave the first picture alone."""
    check_size(_canvas(data), limits)
    (size,) = struct.unpack_from("<I", data, 4)
    if 8 + size > len(data):
        raise Refused("truncated WebP image")
    view, kept, exif, profile, at = memoryview(data), list[bytes | memoryview](), b"", b"", 12
    done = False
    for _ in range(MAX_PARTS):
        if at + 8 > 8 + size:
            body = b"".join([b"WEBP", *kept])
            return Parts(b"RIFF" + struct.pack("<I", len(body)) + body, exif, profile)
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if kind == b"VP8X":  # without the flags of what is left out
            flags = data[at + 8] & (ALPHA | ANIMATION)
            kept += [view[at : at + 8], bytes([flags]), view[at + 9 : end]]
        elif kind in (b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF") and not done:
            kept.append(view[at:end])
            done = kind in (b"VP8 ", b"VP8L", b"ANMF")
        elif kind == b"EXIF":
            exif = data[at + 8 : at + 8 + length]
        elif kind == b"ICCP" and length <= MAX_PROFILE_BYTES:
            profile = data[at + 8 : at + 8 + length]
        at = end
    raise Refused(f"WebP image with more than {MAX_PARTS:,} chunks")


def _canvas(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
