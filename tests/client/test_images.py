import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.client.pictures import decoded, encoded, photo, pixels

from vitrail.client import InvalidArgument
from vitrail.client.images import encode


def test_paths_and_bytes_travel_as_they_are(tmp_path: Path) -> None:
    """What is encoded already is never touched, even where it is no image: the server judges it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"not an image")
    assert encode(path) == encode(str(path)) == encode(b"not an image") == b"not an image"
    assert encode(b"") == b""


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(pixels(), id="uint8 [H, W, 3]"),
        pytest.param(pixels().astype(np.float32) / 255, id="float32 [H, W, 3]"),
        pytest.param(pixels()[::-1][::-1], id="a view that is not contiguous"),
        pytest.param(Image.fromarray(pixels()), id="PIL"),
        pytest.param(torch.from_numpy(pixels()), id="tensor, channels last"),
        pytest.param(torch.from_numpy(pixels()).permute(2, 0, 1), id="tensor, channels first"),
        pytest.param((torch.from_numpy(pixels()).permute(2, 0, 1) / 255).requires_grad_(), id="float tensor with grad"),
    ],
)
def test_pixels_arrive_unchanged(image: Any) -> None:
    """Pixels of every kind are encoded without loss."""
    np.testing.assert_array_equal(decoded(encode(image)), pixels())


def test_bfloat16_tensors_are_read() -> None:
    """A tensor of a type that NumPy lacks is an image like others."""
    image = torch.full((3, 5, 7), 0.5, dtype=torch.bfloat16)
    assert decoded(encode(image)).shape == (5, 7, 3)


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 1), (16, 24, 4)])
def test_grey_and_transparent_arrays(shape: tuple[int, ...]) -> None:
    """One and four channels are images too."""
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(decoded(encode(array)).reshape(shape), array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F", "HSV"])
def test_pil_images_of_every_mode(mode: str) -> None:
    """A PIL image of any mode is encoded as something that can be decoded."""
    image = Image.new(mode, (7, 5))
    assert decoded(encode(image)).shape[:2] == (5, 7)


def test_rotation_is_kept() -> None:
    """A PIL image with an EXIF rotation travels upright, since encoding would lose the tag."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif))) as image:
        assert decoded(encode(image)).shape == (20, 10, 3)


def test_large_pictures_become_jpeg() -> None:
    """Above 4 megapixels a picture is a JPEG, below a PNG."""
    assert encode(np.zeros((2001, 2000, 3), np.uint8)).startswith(b"\xff\xd8")
    assert encode(np.zeros((2000, 2000, 3), np.uint8)).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/no/such/file.jpg", "No such file"),
        ("a\0b", "cannot be read"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 5), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (np.full((4, 4), 1.5), "0 to 1"),
        (np.full((4, 4), np.nan), "0 to 1"),
        (np.zeros((4, 4), np.int64), "uint8 or float"),
        (np.zeros((0, 4, 3), np.uint8), "cannot be read"),
        (object(), "none of path"),
        (7, "none of path"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    """What cannot be read or encoded raises InvalidArgument and names the field."""
    with pytest.raises(InvalidArgument, match=message) as refused:
        encode(image)
    assert refused.value.field == "image"


def test_truncated_file_behind_a_pil_image_is_refused() -> None:
    """A PIL image that was opened but cannot be decoded is refused, not a stray OSError."""
    with (
        Image.open(io.BytesIO(photo()[:-200])) as image,
        pytest.raises(InvalidArgument, match="cannot be read"),
    ):
        encode(image)
