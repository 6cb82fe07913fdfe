"""Preprocessing as data: what it may say, and what it does."""

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from pydantic import ValidationError

from tests.server.images import photos
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Recipe

PLAIN = {"resize": 64, "crop": 64, "mean": (0.0,) * 3, "std": (1.0,) * 3}
RED = (250, 10, 20)


def preprocessing(**fields: object) -> Preprocessing:
    return Preprocessing.model_validate(PLAIN | fields)


def test_padding_keeps_the_whole_photo() -> None:
    """The long side fills the square, the rest is background, the middle is the photo scaled."""
    image = photos()["coffee.png"].resize((300, 150))
    found = preprocessing(fit="pad", background=RED).apply(image)
    assert found.shape == (64, 64, 3)
    assert (found[:16] == RED).all()
    assert (found[48:] == RED).all()
    np.testing.assert_array_equal(found[16:48], np.asarray(image.resize((64, 32), Image.Resampling.BICUBIC)))


def test_stretching_scales_both_sides() -> None:
    image = photos()["coffee.png"].resize((300, 150))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(preprocessing(fit="stretch").apply(image), expected)


def test_noise_goes_and_contrast_comes_before_scaling() -> None:
    """Each step is Pillow's own, in this order, and explained by a picture of its result."""
    image = Image.fromarray((np.asarray(photos()["coffee.png"].resize((200, 200))) // 3 + 60).astype(np.uint8))
    recipe = preprocessing(denoise="median", contrast="stretch", fit="stretch")
    quiet = image.filter(ImageFilter.MedianFilter(3))
    strong = ImageOps.autocontrast(quiet, 1.0)
    names, pictures = zip(*recipe.steps(image), strict=True)
    assert [name.split()[0] for name in names] == ["decoded", "denoised", "contrast", "stretched"]
    for found, expected in zip(pictures, (image, quiet, strong), strict=False):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pictures[-1], recipe.apply(image))
    assert np.ptp(recipe.apply(image)) > 2 * np.ptp(preprocessing(fit="stretch").apply(image))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (3, 2)], ids=str)
def test_slivers(fit: str, size: tuple[int, int]) -> None:
    """The thinnest images give pixels as any image does; what is padded has at least a line of them."""
    found = preprocessing(fit=fit, denoise="median", contrast="none").apply(Image.new("RGB", size, RED))
    assert found.shape == (64, 64, 3)
    assert (np.abs(found.astype(int) - RED).max(axis=2) <= 1).any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crop": 65}, "at least crop"),
        ({"fit": "pad", "resize": 70}, "resize must be crop"),
        ({"std": (1.0, 0.0, 1.0)}, "must not be 0"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "finite"),
        ({"crop": 1 << 20, "resize": 1 << 20}, "less than or equal"),
        ({"background": (0, 0, 256)}, "less than or equal to 255"),
        ({"sharpen": True}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        preprocessing(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": 65},
        {"fit": "pad"},
        {"interpolation": "bilinear"},
        {"background": RED},
        {"denoise": "median"},
        {"contrast": "stretch"},
        {"mean": (1.0, 0.0, 0.0)},
        {"std": (2.0, 1.0, 1.0)},
    ],
    ids=str,
)
def test_every_field_is_part_of_the_fingerprint(fields: dict[str, object]) -> None:
    """Another way to make pixels is another space."""

    def space(**fields: object) -> str:
        return Recipe(backbone="b", weights="0" * 64, preprocessing=preprocessing(**fields)).space("b")

    assert space(**fields) != space()
