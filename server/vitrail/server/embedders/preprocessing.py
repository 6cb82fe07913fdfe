"""From a decoded photo to the pixels of a model, as data: two vectors compare only if this was the same."""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

Grey = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Grey, Grey, Grey]
Level = Annotated[float, Field(allow_inf_nan=False)]
Step = tuple[str, Image.Image]

MAX_SIDE = 2048
# Of the darkest and the brightest pixels of each channel this share is cut off, in percent: they are noise.
CONTRAST_CUTOFF = 1.0


class Preprocessing(BaseModel):
    """How a photo that was decoded (upright, sRGB, over `background`) becomes the pixels of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=1, le=2 * MAX_SIDE)
    """The side in pixels that the image is scaled to: the short one where it is cropped, the long one where padded."""
    crop: int = Field(ge=1, le=MAX_SIDE)
    """The side of the square that the model sees."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Cut the square from the centre, fill it up with `background`, or scale both sides to it."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """The filter of the scaling, always antialiased."""
    background: Colour = (255, 255, 255)
    """Under what is transparent, and around what is padded."""
    denoise: Literal["none", "median"] = "none"
    """A median over 3 × 3 pixels, against the noise of dark sensors and scanned film."""
    contrast: Literal["none", "stretch"] = "none"
    """Each channel stretched over the full range, against fog and faded prints."""
    mean: tuple[Level, Level, Level]
    """Subtracted from each channel, in grey levels from 0 to 255."""
    std: tuple[Level, Level, Level]
    """Divides what is left."""

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocessing":
        if self.fit == "crop" and self.resize < self.crop:
            raise ValueError("resize must be at least crop, which is cut from it")
        if self.fit != "crop" and self.resize != self.crop:
            raise ValueError(f"resize must be crop where the image is not cropped ({self.fit})")
        if min(map(abs, self.std)) < 1e-6:
            raise ValueError("std must not be 0")
        return self

    @property
    def target(self) -> int:
        """The short side in pixels that decoding must leave."""
        return self.resize if self.fit == "crop" else self.crop

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Turn an RGB image into uint8 [crop, crop, 3]; `mean` and `std` are left to the device.

        Where it is cropped, only the pixels of the crop are computed, so a strip of 1 × 20,000 costs what any image
        costs. Equal to torchvision's `Resize` and `CenterCrop` within one grey level, but for a few values in
        100,000: Pillow chooses by the shapes which axis it scales first.
        """
        *_, (_, last) = self.steps(image)
        return np.asarray(last)

    def steps(self, image: Image.Image) -> Iterator[Step]:
        """The image after each step, named, beginning with what was decoded."""
        yield "decoded", image
        if self.denoise == "median":
            image = image.filter(ImageFilter.MedianFilter(3))
            yield "denoised by a median over 3 × 3 pixels", image
        if self.contrast == "stretch":
            image = ImageOps.autocontrast(image, CONTRAST_CUTOFF)
            yield "contrast stretched", image
        match self.fit:
            case "crop":
                yield f"scaled to {self.resize}, cropped to {self.crop} × {self.crop}", self._cropped(image)
            case "pad":
                yield f"scaled and padded to {self.crop} × {self.crop}", self._padded(image)
            case "stretch":
                yield f"stretched to {self.crop} × {self.crop}", image.resize((self.crop, self.crop), self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _cropped(self, image: Image.Image) -> Image.Image:
        box = self._box(image.size)
        if min(image.size) == self.resize:
            left, top = map(round, box[:2])
            return image.crop((left, top, left + self.crop, top + self.crop))
        return image.resize((self.crop, self.crop), self._filter, box=box)

    def _box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Where the crop lies in the image that is not yet scaled; rounds as torchvision does."""
        short = min(size)
        scaled = [self.resize * side // short for side in size]
        edges = [round((side - self.crop) / 2) for side in scaled]
        (left, top), (x, y) = edges, (side / full for side, full in zip(size, scaled, strict=True))
        # Rounding errors must not push the box over the image's edge, which Pillow refuses.
        right, bottom = min((left + self.crop) * x, size[0]), min((top + self.crop) * y, size[1])
        return left * x, top * y, right, bottom

    def _padded(self, image: Image.Image) -> Image.Image:
        scale = self.crop / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        padded = Image.new("RGB", (self.crop, self.crop), self.background)
        padded.paste(image.resize((width, height), self._filter), ((self.crop - width) // 2, (self.crop - height) // 2))
        return padded
