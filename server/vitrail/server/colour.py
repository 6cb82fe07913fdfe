"""Colours of an ICC profile to those of sRGB, by LittleCMS."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# How the four bytes of a profile's header name the colours that it is about, and the modes of images that have them.
MODES = {b"RGB ": ("RGB", "RGBA"), b"GRAY": ("L",), b"CMYK": ("CMYK",)}
# Signatures of the tag table, which begins at byte 128 and has at most 100 entries of 12 bytes.
TABLE_END = 132 + 100 * 12
# Levels by which the colours of a profile may differ from sRGB to count as sRGB.
SAME = 2


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image of mode L, RGB, RGBA or CMYK, in place where its mode stays.

    One whose profile says nothing about its mode is left as it is; a profile that is damaged or of another kind counts
    as none. Safe in any thread: transforms keep no state.
    """
    if not profile or image.mode not in MODES.get(profile[16:20], ()):
        return image
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    return transform.apply(image, image if image.mode == transform.output_mode else None)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts; None if the profile is damaged or sRGB. Profiles of one camera or scanner are all the same."""
    # Elements for floating point may be chained by the hundred thousand; what they replace is always there too.
    table = profile[:TABLE_END].replace(b"D2B", b"d2b")
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(table + profile[TABLE_END:]),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if mode != "CMYK" and _changes_little(transform, mode) else transform


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colours from all over the cube, or all greys, where they are."""
    steps = np.arange(256) if mode == "L" else np.linspace(0, 255, 9)
    cube = np.stack(np.meshgrid(*[steps] * (1 if mode == "L" else 3)), axis=-1).astype(np.uint8)
    colours = np.broadcast_to(cube.reshape(1, -1, cube.shape[-1]), (1, cube.size // cube.shape[-1], 3))
    probe = Image.fromarray(np.ascontiguousarray(colours)).convert(mode)
    found = np.asarray(transform.apply(probe).convert("RGB")).astype(int)
    return bool(np.abs(found - colours).max() <= SAME)
