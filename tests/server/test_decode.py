"""Decoding: every kind of image comes out as upright RGB on white, everything else is InvalidArgument."""

import zlib

import numpy as np
import pytest
from PIL import Image

from tests.server.images import (
    bmp_of_size,
    difference,
    encode,
    faded,
    gif_of_size,
    grey,
    half,
    jpeg,
    jpeg_of_size,
    on_white,
    oriented,
    picture,
    png,
    png_bomb,
    png_chunk,
    png_of_48_bits,
    png_rows,
    sixteen_bit,
    tiff,
    tiff_of,
    webp_of_size,
)
from vitrail.rpc.errors import InvalidArgument
from vitrail.server.decode import ImageLimits, check_jpeg, decode, thumbnail
from vitrail.server.formats.limits import MAX_PARTS, PILLOW_PIXELS

LIMITS = ImageLimits()
PICTURE = picture()
FADED = faded(PICTURE)
HALF = half(PICTURE)
BLACK = Image.new("RGB", PICTURE.size)

FILES = {
    "jpeg": jpeg(PICTURE),
    "progressive-jpeg": jpeg(PICTURE, progressive=True),
    "png": encode(PICTURE, "PNG"),
    "interlaced-gif": encode(PICTURE.quantize(), "GIF", interlace=True),
    "webp": encode(PICTURE, "WEBP", quality=95),
    "webp-lossless": encode(PICTURE, "WEBP", lossless=True),
    "tiff": encode(PICTURE, "TIFF"),
    "tiff-lzw": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "bmp": encode(PICTURE, "BMP"),
    "avif": encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4"),
}


@pytest.mark.parametrize(
    ("data", "expected", "bound"),
    [
        *(pytest.param(data, PICTURE, 6, id=name) for name, data in FILES.items()),
        pytest.param(jpeg(PICTURE.convert("CMYK")), PICTURE, 2, id="cmyk-jpeg-of-adobe"),
        pytest.param(encode(PICTURE.convert("CMYK"), "TIFF"), PICTURE, 1, id="cmyk-tiff"),
        pytest.param(jpeg(PICTURE.convert("L")), grey(PICTURE), 2, id="grey-jpeg"),
        pytest.param(encode(sixteen_bit(PICTURE), "PNG"), grey(PICTURE), 0, id="grey-16-bit-png"),
        pytest.param(encode(sixteen_bit(PICTURE), "TIFF"), grey(PICTURE), 0, id="grey-16-bit-tiff"),
        pytest.param(encode(sixteen_bit(PICTURE, ">"), "TIFF"), grey(PICTURE), 0, id="grey-16-bit-motorola-tiff"),
        pytest.param(png_of_48_bits(PICTURE), PICTURE, 0, id="rgb-16-bit-png"),
        pytest.param(encode(PICTURE.quantize(), "PNG"), PICTURE, 6, id="palette-png"),
        pytest.param(encode(PICTURE.convert("L"), "PNG"), grey(PICTURE), 0, id="grey-png"),
        pytest.param(encode(PICTURE.convert("1"), "PNG"), PICTURE.convert("1").convert("RGB"), 0, id="one-bit-png"),
        pytest.param(encode(FADED, "PNG"), on_white(FADED), 1, id="transparent-png"),
        pytest.param(encode(FADED.convert("LA"), "PNG"), grey(on_white(FADED)), 1, id="transparent-grey-png"),
        pytest.param(encode(FADED, "WEBP", lossless=True), on_white(FADED), 1, id="transparent-webp"),
        pytest.param(encode(FADED, "TIFF"), on_white(FADED), 1, id="transparent-tiff"),
        pytest.param(encode(FADED.quantize(), "PNG"), on_white(FADED), 14, id="transparent-palette-png"),
        pytest.param(encode(HALF, "GIF"), on_white(HALF), 6, id="transparent-gif"),
        pytest.param(
            encode(PICTURE, "GIF", save_all=True, append_images=[BLACK, BLACK]), PICTURE, 6, id="animated-gif"
        ),
        pytest.param(
            encode(PICTURE, "WEBP", save_all=True, append_images=[BLACK], lossless=True),
            PICTURE,
            0,
            id="animated-webp",
        ),
        pytest.param(encode(PICTURE, "PNG", save_all=True, append_images=[BLACK]), PICTURE, 0, id="animated-png"),
        pytest.param(encode(PICTURE, "TIFF", save_all=True, append_images=[BLACK]), PICTURE, 0, id="tiff-of-pages"),
        pytest.param(encode(picture(1, 20_000), "PNG"), picture(1, 20_000), 0, id="1x20000"),
        pytest.param(encode(picture(20_000, 1), "PNG"), picture(20_000, 1), 0, id="20000x1"),
        pytest.param(encode(PICTURE.crop((5, 5, 6, 6)), "PNG"), PICTURE.crop((5, 5, 6, 6)), 0, id="one-pixel"),
    ],
)
def test_comes_out_as_its_original(data: bytes, expected: Image.Image, bound: float) -> None:
    """Whatever the format and the pixels' type, the picture is the one that was drawn."""
    assert difference(decode(data, LIMITS, 256), expected) <= bound


BACKGROUND = (30, 160, 90)
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
PNG_TYPES = [
    *((GREY, depth, key) for depth in (1, 2, 4, 8, 16) for key in (False, True)),
    *((RGB, depth, key) for depth in (8, 16) for key in (False, True)),
    *((PALETTE, depth, key) for depth in (1, 2, 4, 8) for key in (False, True)),
    *((colour, depth, False) for colour in (GREY_ALPHA, RGB_ALPHA) for depth in (8, 16)),
]


@pytest.mark.parametrize(("colour", "depth", "key"), PNG_TYPES)
def test_every_type_of_png(colour: int, depth: int, key: bool) -> None:
    """All pixels are as the format defines them, over a background, within the rounding of 16 bits."""
    chance = np.random.default_rng(colour * 100 + depth)
    samples = chance.integers(0, 2**depth, (5, 13, CHANNELS[colour]))
    colours, alpha, before = samples / (2**depth - 1), np.ones((5, 13, 1)), b""
    if colour in (GREY_ALPHA, RGB_ALPHA):
        colours, alpha = colours[..., :-1], colours[..., -1:]
    if colour == PALETTE:
        palette = chance.integers(0, 256, (2**depth, 4)).astype(np.uint8)
        colours, before = palette[samples[..., 0], :3] / 255, png_chunk(b"PLTE", palette[:, :3].tobytes())
        if key:
            alpha, before = palette[samples[..., 0], 3:] / 255, before + png_chunk(b"tRNS", palette[:, 3].tobytes())
    elif key:
        alpha = 1.0 - (samples == samples[2, 3]).all(axis=-1, keepdims=True)
        before = png_chunk(b"tRNS", samples[2, 3].astype(">u2").tobytes())
    expected = 255 * colours * alpha + np.array(BACKGROUND) * (1 - alpha)
    data = png((13, 5), depth, colour, png_rows(samples, depth), before=before)
    found = np.asarray(decode(data, LIMITS, 256, background=BACKGROUND))
    assert np.abs(found - expected).max() <= 1.5


WHITE_IS_ZERO, BLACK_IS_ZERO, INKS = 0, 1, 5
SPARE, ASSOCIATED, ALPHA = 0, 1, 2


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra"),
    [
        (WHITE_IS_ZERO, 1, None),
        (BLACK_IS_ZERO, 1, None),
        (RGB, 3, None),
        (RGB, 4, SPARE),
        (RGB, 4, ASSOCIATED),
        (RGB, 4, ALPHA),
        (INKS, 4, None),
    ],
)
def test_every_type_of_tiff(photometric: int, channels: int, extra: int | None, bits: int) -> None:
    """As with PNG; associated alpha means colours that are multiplied already."""
    samples = np.random.default_rng(bits).integers(0, 2**bits, (5, 13, channels))
    alpha = samples[..., -1:] / (2**bits - 1) if extra in (ASSOCIATED, ALPHA) else np.ones((5, 13, 1))
    if extra == ASSOCIATED:
        samples[..., :3] = np.round(samples[..., :3] * alpha)
    colours = samples / (2**bits - 1)
    if photometric == WHITE_IS_ZERO:
        colours = 1 - colours
    elif photometric == INKS:
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    shown = colours[..., :3] * (alpha if extra == ALPHA else 1)
    expected = 255 * shown + np.array(BACKGROUND) * (1 - alpha)
    found = np.asarray(decode(tiff_of(samples, bits, photometric, extra), LIMITS, 256, background=BACKGROUND))
    assert np.abs(found - expected).max() <= (3 if extra == ASSOCIATED else 2)


def test_cmyk_has_the_marker() -> None:
    """The CMYK file of the table is of Adobe's kind, whose inks are stored inverted."""
    assert b"\xff\xee\x00\x0eAdobe" in jpeg(PICTURE.convert("CMYK"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_upright(kind: str, orientation: int) -> None:
    """Exif's orientation is respected in every format that has one."""
    stored, exif = oriented(PICTURE, orientation)
    quality = {} if kind in ("PNG", "TIFF") else {"quality": 95}
    assert difference(decode(encode(stored, kind, exif=exif, **quality), LIMITS, 256), PICTURE) <= 6


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0", id="empty"),
        pytest.param(b"Exif\0\0II*\0\xff\xff\xff\xff", id="directory-outside"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", id="cut"),
        pytest.param(b"Exif\0\0" + tiff({0x0112: (3, 1, 77)}), id="orientation-77"),
    ],
)
def test_corrupt_exif_is_ignored(exif: bytes) -> None:
    """A photo whose Exif data is damaged is still a photo."""
    assert difference(decode(jpeg(PICTURE, exif=exif), LIMITS, 256), PICTURE) <= 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "empty", id="no-bytes"),
        pytest.param(b"\0", "not an image", id="a-zero"),
        pytest.param(b"%PDF-1.7 and so on", "not an image", id="pdf"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image", id="svg"),
        pytest.param(encode(PICTURE, "ICO"), "not an image", id="format-not-on-the-list"),
        pytest.param(b"\xff\xd8\xff", "truncated JPEG", id="jpeg-magic-alone"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "truncated PNG", id="png-magic-alone"),
        pytest.param(b"GIF89a", "truncated GIF", id="gif-magic-alone"),
        pytest.param(b"RIFF\0\0\0\0WEBP", "truncated WebP", id="webp-magic-alone"),
        pytest.param(b"II*\0", "truncated TIFF", id="tiff-magic-alone"),
        pytest.param(b"BM", "truncated BMP", id="bmp-magic-alone"),
        pytest.param(b"\0\0\0\x1cftypavif", "truncated AVIF", id="avif-magic-alone"),
        pytest.param(FILES["png"][:8] + FILES["jpeg"], "truncated PNG", id="jpeg-that-says-png"),
        pytest.param(png_bomb(), "30,000 × 30,000 pixels exceed", id="png-bomb"),
        pytest.param(jpeg_of_size(65_500, 65_500), "65,500 × 65,500 pixels exceed", id="jpeg-bomb"),
        pytest.param(gif_of_size(60_000, 50_000), "60,000 × 50,000 pixels exceed", id="gif-bomb"),
        pytest.param(webp_of_size(2**24, 9), "16,777,216 × 9 pixels exceed", id="webp-bomb"),
        pytest.param(bmp_of_size(10**6, 10), "1,000,000 × 10 pixels exceed", id="bmp-bomb"),
        pytest.param(
            tiff({256: (4, 1, 50_000), 257: (4, 1, 50_000), 262: (3, 1, 1), 273: (4, 1, 8), 258: (3, 1, 8)}),
            "50,000 × 50,000 pixels exceed",
            id="tiff-bomb",
        ),
        pytest.param(jpeg_of_size(0, 10), "0 × 10 pixels", id="no-width"),
        pytest.param(encode(Image.new("F", (9, 9), 0.5), "TIFF"), "32 bits", id="float-tiff"),
        pytest.param(encode(Image.new("I", (9, 9), 70_000), "TIFF"), "32 bits", id="int-tiff"),
        pytest.param(bmp_of_size(9, 9, compression=1), "run-length", id="run-length-bmp"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    """What is no image, is damaged, or is too large is refused with words that say which, naming the field."""
    with pytest.raises(InvalidArgument, match=message) as refused:
        decode(data, LIMITS, 256, field="query.image")
    assert refused.value.field == "query.image"


@pytest.mark.parametrize("name", FILES)
def test_refuses_truncated(name: str) -> None:
    """A file cut after any tenth of its length is refused, never filled up with grey."""
    data = FILES[name]
    for tenth in range(1, 10):
        with pytest.raises(InvalidArgument, match=r"truncated|not an image"):
            decode(data[: len(data) * tenth // 10], LIMITS, 256)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\xff\xd8" + b"\xff\xe1\0\x08Exif\0\0" * MAX_PARTS, "segments", id="jpeg-segments"),
        pytest.param(FILES["png"][:33] + png_chunk(b"tEXt", b"") * MAX_PARTS, "chunks", id="png-chunks"),
        pytest.param(b"GIF89a" + bytes(7) + b"!\xfe" + b"\1x" * MAX_PARTS, "blocks", id="gif-blocks"),
        pytest.param(tiff({273: (4, MAX_PARTS + 1, 8)}), "strips", id="tiff-strips"),
        pytest.param(
            jpeg(Image.new("L", (2_000, 2_000)), progressive=True)[:-2]
            + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 9_000
            + b"\xff\xd9",
            "scans",
            id="jpeg-scans",
        ),
    ],
)
def test_refuses_endless_work(data: bytes, message: str) -> None:
    """A file made of very many parts is refused by their number, before they are worked through."""
    with pytest.raises(InvalidArgument, match=message):
        decode(data, LIMITS, 256)


def test_text_bombs_are_skipped() -> None:
    """Compressed text beside the pixels is never unpacked."""
    bomb = png_chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(2**22)))
    rows = [b"\0" + bytes(3 * 8)] * 8
    image = decode(png((8, 8), 8, 2, iter(rows), before=bomb * 100), LIMITS, 256)
    assert difference(image, Image.new("RGB", (8, 8))) == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        pytest.param(ImageLimits(bytes=100), "bytes exceed the limit of 100", id="bytes"),
        pytest.param(ImageLimits(pixels=96 * 64 - 1), "96 × 64 pixels exceed the limit of 6,143", id="pixels"),
        pytest.param(ImageLimits(side=95), "96 × 64 pixels exceed the limit of 95 a side", id="side"),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_limits_hold_for_every_format(name: str, limits: ImageLimits, message: str) -> None:
    """An image just above a limit is refused, and one at the limit passes."""
    with pytest.raises(InvalidArgument, match=message):
        decode(FILES[name], limits, 256)
    exact = ImageLimits(bytes=len(FILES[name]), pixels=96 * 64, side=96)
    assert decode(FILES[name], exact, 256).size == (96, 64)


@pytest.mark.parametrize("field", ["bytes", "pixels", "side"])
def test_limits_are_checked(field: str) -> None:
    """A limit of nothing, or of more than Pillow lets pass, is a mistake of the configuration."""
    with pytest.raises(ValueError, match=field):
        ImageLimits(**{field: 0})
    with pytest.raises(ValueError, match="pixels"):
        ImageLimits(pixels=PILLOW_PIXELS + 1)


def test_a_raised_limit_does_not_warn() -> None:
    """Above Pillow's own warning threshold, an image within our limit is decoded without a word."""
    image = decode(png_bomb(10_000), ImageLimits(pixels=10**8), 256)
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("width", "height"), [(2600, 2100), (1030, 4000), (1024, 1024), (511, 900), (200, 300)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_shrinks_but_never_below_the_target(kind: str, width: int, height: int) -> None:
    """A large image comes back smaller and in proportion, with a short side that still suffices."""
    original = picture(width, height)
    image = decode(encode(original, kind, compress_level=1), LIMITS, 256)
    assert min(image.size) >= min(256, width, height)
    assert min(image.size) < 8 * 256
    assert image.width / image.height == pytest.approx(width / height, rel=0.01)
    assert difference(image, original.resize(image.size, Image.Resampling.BOX)) < 4


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (160, 120)), ((300, 400), (120, 160)), ((100, 50), (100, 50)), ((1, 20_000), (1, 160))],
)
def test_thumbnail_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """A thumbnail is a small JPEG in the same proportions; its source stays as it was."""
    image = picture(*size)
    small = decode(thumbnail(image), LIMITS, 256)
    assert small.size == expected
    assert image.size == size
    assert np.abs(np.asarray(small).mean() - np.asarray(image).mean()) < 5


def test_a_jpeg_within_limits_passes_by_its_headers_alone() -> None:
    """Its pixels are not looked at: cut off behind the headers it passes all the same."""
    data = jpeg(PICTURE)
    check_jpeg(data, ImageLimits(bytes=len(data), side=max(PICTURE.size)), field="thumbnail")
    check_jpeg(data[:-100], LIMITS, field="thumbnail")


@pytest.mark.parametrize(
    ("data", "limits", "why"),
    [
        pytest.param(b"", LIMITS, "empty", id="empty"),
        pytest.param(encode(PICTURE, "PNG"), LIMITS, "PNG, not JPEG", id="png"),
        pytest.param(b"junk", LIMITS, "not an image", id="junk"),
        pytest.param(jpeg(PICTURE)[:40], LIMITS, "damaged", id="cut off in its headers"),
        pytest.param(b"\xff\xd8\xff" + bytes(100), LIMITS, "damaged", id="magic alone"),
        pytest.param(jpeg(PICTURE), ImageLimits(bytes=100), "bytes exceed", id="bytes"),
        pytest.param(jpeg_of_size(513, 1), ImageLimits(side=512), "513 × 1", id="side"),
        pytest.param(jpeg_of_size(300, 300), ImageLimits(pixels=1000), "300 × 300", id="pixels"),
    ],
)
def test_what_is_no_jpeg_within_limits_is_refused(data: bytes, limits: ImageLimits, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        check_jpeg(data, limits, field="thumbnail")
    assert caught.value.field == "thumbnail"
