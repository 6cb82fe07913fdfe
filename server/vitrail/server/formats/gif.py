"""GIF: a screen, extensions in blocks, frames."""

import struct

from vitrail.server.formats.limits import MAX_PARTS, ImageLimits, Parts, Refused, check_size


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Leave out the extensions before the first frame, but what says which of its colours is transparent."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, parts = [data[:at]], 0
    while data[at] == 0x21:  # an extension: a label, blocks with their lengths, an empty block
        start, at = at, at + 2
        while parts < MAX_PARTS and data[at]:
            at, parts = at + 1 + data[at], parts + 1
        at, parts = at + 1, parts + 1
        if parts >= MAX_PARTS:
            raise Refused(f"GIF image with more than {MAX_PARTS:,} blocks before its first frame")
        if data[start + 1] == 0xF9:
            kept.append(data[start:at])
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    check_size((max(width, left + frame_width), max(height, top + frame_height)), limits)
    return Parts(b"".join([*kept, data[at:]]))
