"""BMP: one header."""

import struct

from vitrail.server.formats.limits import ImageLimits, Parts, Refused


def guard(data: bytes, limits: ImageLimits) -> Parts:
    """Refuse run-length compression, which Pillow decodes by a loop in Python."""
    header, compression = struct.unpack_from("<I12xI", data, 14)
    if header >= 40 and compression in (1, 2):
        raise Refused("BMP image with run-length compression is not supported")
    return Parts(data)
