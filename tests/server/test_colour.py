"""Colours: what a profile says comes out in sRGB, as computed without LittleCMS; a bad profile counts as none."""

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.server.images import difference, encode, jpeg, picture, png_chunk
from tests.server.profiles import (
    ADOBE_RGB,
    P3,
    SRGB,
    in_jpeg,
    in_png,
    in_srgb,
    of_grey,
    of_inks,
    of_lab,
    of_primaries,
    of_srgb,
)
from vitrail.server.colour import to_srgb
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.formats.limits import MAX_PROFILE_BYTES

LIMITS = ImageLimits()
PICTURE = picture()
WIDE = of_primaries(P3, 2.2)
EXPECTED = Image.fromarray(np.round(in_srgb(np.asarray(PICTURE), P3, 2.2)).astype(np.uint8))


def worst(image: Image.Image, expected: NDArray[np.float64]) -> float:
    return float(np.abs(np.asarray(image) - expected).max())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(in_jpeg(jpeg(PICTURE), WIDE), id="jpeg"),
        pytest.param(in_jpeg(jpeg(PICTURE), WIDE, size=100), id="jpeg-in-many-segments"),
        pytest.param(in_jpeg(jpeg(PICTURE), WIDE, size=100, order=-1), id="jpeg-in-segments-out-of-order"),
        pytest.param(encode(PICTURE, "PNG", icc_profile=WIDE), id="png"),
        pytest.param(encode(PICTURE, "WEBP", lossless=True, icc_profile=WIDE), id="webp"),
        pytest.param(encode(PICTURE, "TIFF", icc_profile=WIDE), id="tiff"),
        pytest.param(encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4", icc_profile=WIDE), id="avif"),
    ],
)
def test_a_profile_is_applied(data: bytes) -> None:
    """In every format that has them."""
    decoded = decode(data, LIMITS, 256)
    assert difference(decoded, EXPECTED) < 4
    assert difference(PICTURE, EXPECTED) > 6  # what a profile that is left out would give


@pytest.mark.parametrize(("primaries", "gamma"), [(P3, 2.2), (ADOBE_RGB, 2.19921875), (SRGB, 1.8)])
def test_colours_are_those_of_the_definition(primaries: NDArray[np.float64], gamma: float) -> None:
    """Display P3, Adobe RGB and a screen of another gamma, over the whole cube, within two levels of 255.

    Next to black gamma has no slope that 8 bits of the table could follow, hence the cube begins at 16.
    """
    cube = np.stack(np.meshgrid(*[np.arange(16, 256, 15)] * 3), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    found = decode(encode(Image.fromarray(cube), "PNG", icc_profile=of_primaries(primaries, gamma)), LIMITS, 256)
    assert worst(found, in_srgb(cube, primaries, gamma)) <= 2


def test_inks_of_a_printer() -> None:
    """CMYK with a profile has the printer's colours, not those of ideal inks; JPEG's are stored inverted."""
    corners = np.random.default_rng(3).integers([60, 118, 118], [230, 138, 138], (2, 2, 2, 2, 3)).astype(np.uint8)
    corners[0, 0, 0, 0], corners[1, 1, 1, 1] = (255, 128, 128), (0, 128, 128)  # paper is white, all inks are black
    inks = np.array([[[255 * (n >> shift & 1) for shift in (3, 2, 1, 0)] for n in range(16)]], np.uint8)
    expected = of_lab(corners.reshape(1, 16, 3))
    image = Image.fromarray(inks, "CMYK")
    assert worst(decode(encode(image, "TIFF", icc_profile=of_inks(corners)), LIMITS, 256), expected) <= 3
    large = image.resize((16 * 16, 16), Image.Resampling.NEAREST)
    found = decode(jpeg(large, icc_profile=of_inks(corners)), LIMITS, 256)
    assert worst(found.resize((16, 1), Image.Resampling.BOX), expected) <= 6


def test_grey_has_curves_too() -> None:
    """A grey image is as bright as its profile says, and stays grey."""
    levels = np.arange(16, 256, dtype=np.uint8)[np.newaxis]
    found = decode(encode(Image.fromarray(levels), "PNG", icc_profile=of_grey(1.5)), LIMITS, 256)
    assert worst(found, in_srgb(np.stack([levels] * 3, axis=-1), SRGB, 1.5)) <= 2


def test_transparent_pixels_are_converted_before_they_are_put_on_the_background() -> None:
    """The background is a colour of sRGB, whatever the image's profile is."""
    image = Image.new("RGBA", (2, 1), (200, 40, 40, 255))
    image.putpixel((1, 0), (200, 40, 40, 0))
    found = decode(encode(image, "PNG", icc_profile=WIDE), LIMITS, 256, background=(10, 200, 90))
    assert found.getpixel((1, 0)) == (10, 200, 90)
    assert worst(found.crop((0, 0, 1, 1)), in_srgb(np.array([[[200, 40, 40]]], np.uint8), P3, 2.2)) <= 2


def test_a_profile_that_is_srgb_changes_nothing() -> None:
    """Not even by the level or two that the rounding of its table would."""
    for profile, changes in ((of_srgb(), False), (WIDE, True)):
        image = PICTURE.copy()
        assert to_srgb(image, profile) is image
        assert (image.tobytes() != PICTURE.tobytes()) == changes


def broken_table(profile: bytes) -> bytes:
    return profile[:128] + struct.pack(">I", 2**31) + profile[132:]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda profile: profile[:100], id="cut-in-its-header"),
        pytest.param(lambda profile: profile[:300], id="cut-in-its-tags"),
        pytest.param(broken_table, id="too-many-tags"),
        pytest.param(lambda profile: b"\xff" * len(profile), id="noise"),
        pytest.param(lambda profile: profile + bytes(MAX_PROFILE_BYTES), id="too-large"),
        pytest.param(lambda _: of_grey(1.5), id="of-grey"),
        pytest.param(lambda _: of_inks(np.zeros((2, 2, 2, 2, 3), np.uint8)), id="of-inks"),
    ],
)
def test_a_bad_profile_counts_as_none(damage: Callable[[bytes], bytes]) -> None:
    """The photo is decoded as if it had no profile."""
    bad = damage(WIDE)
    assert difference(decode(in_jpeg(jpeg(PICTURE), bad), LIMITS, 256), PICTURE) < 2
    assert difference(decode(in_png(encode(PICTURE, "PNG"), bad), LIMITS, 256), PICTURE) == 0
    assert difference(decode(encode(PICTURE, "TIFF", icc_profile=bad), LIMITS, 256), PICTURE) == 0
    webp = encode(PICTURE, "WEBP", lossless=True, icc_profile=bad)
    assert difference(decode(webp, LIMITS, 256), PICTURE) == 0


def test_segments_that_are_missing_make_no_profile() -> None:
    data = in_jpeg(jpeg(PICTURE), WIDE, size=100)
    start = data.index(b"ICC_PROFILE\0\2") - 4
    (length,) = struct.unpack_from(">H", data, start + 2)
    assert difference(decode(data[:start] + data[start + 2 + length :], LIMITS, 256), PICTURE) < 2


def test_a_profile_is_unpacked_no_further_than_its_limit() -> None:
    """A chunk of 1 MB that would unpack to 1 GB costs no time."""
    bomb = png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**24)) * 50)
    data = encode(PICTURE, "PNG")
    assert difference(decode(data[:33] + bomb + data[33:], LIMITS, 256), PICTURE) == 0


def test_threads_share_a_transform() -> None:
    """Eight threads that convert with one profile at the same time all get its colours."""
    data = encode(PICTURE, "PNG", icc_profile=WIDE)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: decode(data, LIMITS, 256).tobytes(), range(64)))
    assert len(set(found)) == 1
