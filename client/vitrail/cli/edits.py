"""What people do to photos before they search with them: edits, each with its strength."""

import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

QUALITY = 90
"""Of the JPEG that an edit ends in, where the quality is not the edit itself."""

CROP, REPOST_CROP = 0.7, 0.85
DEGREES = 10
JPEG_QUALITY, REPOST_QUALITY = 15, 30
BLUR = 0.01
SATURATION, BRIGHTNESS = 1.5, 1.3
CAPTION = 0.15


class Edit(NamedTuple):
    """An edit; `shows` is how much of each side is left to see, from the middle."""

    name: str
    strength: str
    change: Callable[[Image.Image], Image.Image]
    quality: int = QUALITY
    shows: float = 1.0

    def jpeg(self, photo: Image.Image) -> bytes:
        """The edited photo, as an encoded JPEG."""
        out = io.BytesIO()
        self.change(photo).save(out, "JPEG", quality=self.quality)
        return out.getvalue()


def crop(photo: Image.Image, share: float = CROP) -> Image.Image:
    """Keep the middle: `share` of each side."""
    width, height = photo.size
    left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return photo.crop((left, top, width - left, height - top))


def rotate(photo: Image.Image) -> Image.Image:
    """Turn it within its frame; the corners become black."""
    return photo.rotate(DEGREES, Image.Resampling.BICUBIC)


def blur(photo: Image.Image) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(BLUR * min(photo.size)))


def recolour(photo: Image.Image) -> Image.Image:
    """Make the colours stronger, and all of it brighter."""
    return ImageEnhance.Brightness(ImageEnhance.Color(photo).enhance(SATURATION)).enhance(BRIGHTNESS)


def caption(photo: Image.Image) -> Image.Image:
    """Write a line over the lower edge."""
    captioned = photo.copy()
    brush = ImageDraw.Draw(captioned)
    width, height = photo.size
    band = round(height * CAPTION)
    brush.rectangle((0, height - band, width, height), "black")
    font = ImageFont.load_default(0.6 * band)
    brush.text((width / 2, height - band / 2), "seen today", "white", font, anchor="mm")
    return captioned


def repost(photo: Image.Image) -> Image.Image:
    """Crop, mirror and caption it: what comes back from the third site that a photo was copied to."""
    return caption(ImageOps.mirror(crop(photo, REPOST_CROP)))


EDITS = (
    Edit("crop", f"{CROP:.0%} of each side", crop, shows=CROP),
    Edit("flip", "left to right", ImageOps.mirror),
    Edit("rotation", f"{DEGREES}°, black corners", rotate),
    Edit("JPEG", f"quality {JPEG_QUALITY}", lambda photo: photo, JPEG_QUALITY),
    Edit("blur", f"radius {BLUR:.0%} of the side", blur),
    Edit("colour", f"saturation ×{SATURATION}, brightness ×{BRIGHTNESS}", recolour),
    Edit("caption", f"over {CAPTION:.0%} of the height", caption),
    Edit(
        "repost",
        f"crop {REPOST_CROP:.0%}, flip, caption, JPEG {REPOST_QUALITY}",
        repost,
        REPOST_QUALITY,
        REPOST_CROP,
    ),
)
