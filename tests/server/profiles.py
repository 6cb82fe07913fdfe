"""ICC profiles, made from the definition of the format, and their colours in sRGB, computed without LittleCMS."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from tests.server.images import png_chunk

Colours = NDArray[np.float64]

# Columns: red, green and blue in XYZ at D50, as their published profiles have them.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
D50 = (0.9642, 1.0, 0.8249)


def profile(space: bytes, tags: dict[bytes, bytes], *, connection: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """A profile of version 2 from its tags; `space` is "RGB ", "GRAY" or "CMYK"."""
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I", at + len(body)) + bytes(4) + struct.pack(">I", 0x02400000) + kind + space + connection
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *map(_fixed, D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def of_primaries(primaries: Colours, gamma: float) -> bytes:
    """A screen's profile: the three primaries, and one curve."""
    columns = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    curves = {name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile(b"RGB ", {b"wtpt": _xyz(D50), **columns, **curves})


def of_srgb() -> bytes:
    """sRGB by the primaries and by 1,024 points of its curve."""
    levels = np.linspace(0, 1, 1024)
    points = np.round(_decoded(levels) * 65_535).astype(">u2")
    curve = b"curv" + bytes(4) + struct.pack(">I", len(points)) + points.tobytes()
    columns = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), SRGB.T, strict=True)}
    return profile(b"RGB ", {b"wtpt": _xyz(D50), **columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def of_grey(gamma: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def of_inks(corners: NDArray[np.uint8]) -> bytes:
    """A printer's profile: L*a*b* in 8 bits, [2, 2, 2, 2, 3], without and with each of cyan, magenta, yellow, black."""
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *[65_536 * (i % 4 == 0) for i in range(9)])
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + identity * 4 + corners.tobytes() + identity * 3
    return profile(b"CMYK", {b"wtpt": _xyz(D50), b"A2B0": table, b"A2B1": table}, connection=b"Lab ", kind=b"prtr")


def in_srgb(colours: NDArray[np.uint8], primaries: Colours, gamma: float) -> Colours:
    """Levels of sRGB, 0 to 255, of levels [..., 3] of a screen with these primaries."""
    return of_xyz((colours / 255.0) ** gamma @ primaries.T)


def of_xyz(xyz: Colours) -> Colours:
    linear = np.clip(xyz @ np.linalg.inv(SRGB).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def of_lab(lab: NDArray[np.uint8]) -> Colours:
    """Levels of sRGB of L*a*b* in 8 bits, as a profile's table holds it."""
    lightness, a, b = lab[..., 0] / 2.55, lab[..., 1] - 128.0, lab[..., 2] - 128.0
    y = (lightness + 16) / 116
    ratios = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    return of_xyz(np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * D50)


def in_jpeg(data: bytes, profile: bytes, *, size: int = 60_000, order: int = 1) -> bytes:
    """A JPEG with a profile in segments of this size, in their order or (-1) the other way round."""
    parts = [profile[start : start + size] for start in range(0, len(profile), size)]
    segments = [
        b"\xff\xe2" + struct.pack(">H", 16 + len(part)) + b"ICC_PROFILE\0" + bytes((number, len(parts))) + part
        for number, part in enumerate(parts, 1)
    ]
    return data[:2] + b"".join(segments[::order]) + data[2:]


def in_png(data: bytes, profile: bytes) -> bytes:
    return data[:33] + png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)) + data[33:]


def _decoded(levels: Colours) -> Colours:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _xyz(value: Colours | tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *map(_fixed, value))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _fixed(value: float) -> int:
    return round(float(value) * 65_536)
