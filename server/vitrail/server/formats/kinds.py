"""The formats that are read, told by their first bytes, and some that are not."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vitrail.server.formats import avif, bmp, gif, jpeg, png, tiff, webp
from vitrail.server.formats.limits import ImageLimits, Parts, Refused


@dataclass(frozen=True)
class Kind:
    """A format: its magic bytes, its guard (which may raise anything on bad bytes) and Pillow's plugin."""

    name: str
    magic: re.Pattern[bytes]
    guard: Callable[[bytes, ImageLimits], Parts]
    plugin: type[ImageFile.ImageFile]


KINDS = (
    Kind("JPEG", re.compile(rb"\xff\xd8\xff"), jpeg.guard, JpegImageFile),
    Kind("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), png.guard, PngImageFile),
    Kind("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), webp.guard, WebPImageFile),
    Kind("GIF", re.compile(rb"GIF8[79]a"), gif.guard, GifImageFile),
    Kind("TIFF", re.compile(rb"II\*\0|MM\0\*"), tiff.guard, TiffImageFile),
    Kind("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL), avif.guard, AvifImageFile),
    Kind("BMP", re.compile(rb"BM"), bmp.guard, BmpImageFile),
)
READ = ", ".join(kind.name for kind in KINDS)
OTHERS = {
    "BigTIFF": rb"II\+\0|MM\0\+",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "HEIC": rb"(?s:....)ftyp(hei|hev|mif1|msf1)",
    "HTML": rb"\s*<(?i:!doctype html|html)",
    "ICO": rb"\0\0[\x01\x02]\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "PDF": rb"%PDF-",
    "PSD": rb"8BPS",
    "SVG": rb"\s*(<\?xml|<svg)",
    "ZIP": rb"PK\x03\x04",
}


def sniff(data: bytes) -> Kind:
    """Tell the format.

    Raises:
        Refused: It is none of `KINDS`; the text names it if it is known.
    """
    for kind in KINDS:
        if kind.magic.match(data):
            return kind
    for name, magic in OTHERS.items():
        if re.match(magic, data):
            raise Refused(f"{name} is not an image of a format that is read here ({READ})")
    raise Refused(f"not an image of a format that is read here ({READ})")
