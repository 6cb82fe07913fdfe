"""The default embedder: its space, its preprocessing, and vectors that know a photo again."""

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.server.images import jpeg, photos
from vitrail.server.embedders.base import Embedder
from vitrail.server.embedders.efficientnet import EfficientNetLite0, pretrained


@pytest.fixture(scope="module")
def embedder() -> EfficientNetLite0:
    return EfficientNetLite0(threads=2, precision="full")


@pytest.fixture(scope="module")
def pixels(embedder: EfficientNetLite0) -> NDArray[np.uint8]:
    return np.stack([embedder.preprocessing.apply(image) for image in photos().values()])


@pytest.fixture(scope="module")
def originals(embedder: EfficientNetLite0, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return embedder.embed(pixels)


def test_fits_the_protocol(embedder: Embedder) -> None:
    """The class is an Embedder, and says of itself what the coordinator asks."""
    assert (embedder.name, embedder.dimension, embedder.preprocessing.target) == ("efficientnet-lite0", 1280, 256)


def test_space_is_pinned(embedder: EfficientNetLite0) -> None:
    """The fingerprint never changes by accident: every collection of every user is bound to it."""
    assert embedder.space == "efficientnet-lite0:71e8f06ebeb34a43"


def test_space_follows_the_preprocessing() -> None:
    """Another way to scale an image is another space."""
    bilinear = EfficientNetLite0.own.model_copy(update={"interpolation": "bilinear"})
    assert EfficientNetLite0(1, preprocessing=bilinear).space != EfficientNetLite0(1).space


def test_torch_stays_out_until_a_vector_is_asked_for() -> None:
    """A coordinator that only reports its space, or only scales images, never imports torch."""
    program = """
import sys
from PIL import Image
from vitrail.server.decode import decode
from vitrail.server.embedders.efficientnet import EfficientNetLite0
embedder = EfficientNetLite0(threads=1)
print(embedder.space, embedder.dimension, embedder.preprocessing.apply(Image.new("RGB", (300, 400))).shape)
sys.exit(bool({"torch", "timm", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("efficientnet-lite0:")


@pytest.mark.parametrize(
    "size",
    [
        (256, 341),
        (341, 256),
        (256, 256),
        (224, 224),
        (640, 427),
        (427, 640),
        (1411, 1411),
        (90, 60),
        (30, 900),
        (801, 257),
    ],
    ids=str,
)
def test_preprocesses_as_timm_does(embedder: EfficientNetLite0, size: tuple[int, int]) -> None:
    """Scaling only what the crop needs gives timm's own evaluation pixels within one grey level.

    A few values in 100,000 may be further off: Pillow chooses by the shapes which axis it scales first.
    """
    from timm.data.transforms_factory import create_transform

    image = photos()["coffee.png"].resize(size)
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1))
    expected = (transform(image).permute(1, 2, 0).numpy() * 255).round().astype(int)
    off = np.abs(embedder.preprocessing.apply(image).astype(int) - expected)
    assert off.max() <= 4
    assert (off > 1).mean() <= 5e-5


def test_timm_agrees_on_the_recipe(embedder: EfficientNetLite0) -> None:
    """Side, crop and filter are those that timm has on record for this model."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg("tf_efficientnet_lite0")
    assert config is not None
    recipe = embedder.preprocessing
    assert (recipe.crop, recipe.interpolation) == (config.input_size[1], config.interpolation)
    assert recipe.resize == round(config.input_size[1] / config.crop_pct)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (3, 2)], ids=str)
def test_preprocesses_slivers(embedder: EfficientNetLite0, size: tuple[int, int]) -> None:
    """The smallest and thinnest images give pixels as any image does, without a scaled copy of their length."""
    pixels = embedder.preprocessing.apply(Image.new("RGB", size, (10, 200, 30)))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (10, 200, 30)).max() <= 1


def test_vectors_have_unit_length(originals: NDArray[np.float32]) -> None:
    """Vectors are float32, of 1,280 dimensions and length 1."""
    assert originals.shape == (len(photos()), 1280)
    assert originals.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(originals, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_a_batch_changes_nothing(
    embedder: EfficientNetLite0, pixels: NDArray[np.uint8], originals: NDArray[np.float32], batch: int
) -> None:
    """A photo's vector is the same alone and in any company, within the tolerance that the class states."""
    parts = [embedder.embed(pixels[i : i + batch]) for i in range(0, 9, batch)]
    assert np.abs(np.concatenate(parts)[:9] - originals[:9]).max() <= 1e-6


def test_an_empty_batch(embedder: EfficientNetLite0) -> None:
    """No pixels give no vectors."""
    assert embedder.embed(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, 1280)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8), np.zeros((1, 3, 224, 224), np.uint8)],
    ids=["float", "no-batch", "channels-first"],
)
def test_other_pixels_are_refused(embedder: EfficientNetLite0, pixels: NDArray[np.uint8]) -> None:
    """Pixels of another type or shape are a mistake of the caller, said before the model sees them."""
    with pytest.raises(ValueError, match="uint8"):
        embedder.embed(pixels)


def test_loads_once() -> None:
    """Threads that ask for the model at the same time get the same one."""
    embedder = EfficientNetLite0(threads=2)
    with ThreadPoolExecutor(4) as pool:
        loaded = [pool.submit(embedder.load) for _ in range(4)]
    assert len({id(model.result()) for model in loaded}) == 1


def test_folding_changes_nothing(originals: NDArray[np.float32], pixels: NDArray[np.uint8]) -> None:
    """The model that runs gives what timm's own model with the same weights gives."""
    import torch

    model: Any = pretrained()
    with torch.inference_mode():
        features = model.forward_features((torch.tensor(pixels[:3]).float().permute(0, 3, 1, 2) - 127) / 128)
        expected = torch.nn.functional.normalize(features.mean((2, 3))).numpy()
    np.testing.assert_allclose(originals[:3], expected, atol=1e-5)


def test_half_precision_stays_near(originals: NDArray[np.float32], pixels: NDArray[np.uint8]) -> None:
    """Vectors of a device that computes in half precision compare with those of one that does not."""
    half = EfficientNetLite0(threads=2, precision="half").embed(pixels[:2])
    assert (half * originals[:2]).sum(axis=1).min() >= 0.99


def crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width * 9 // 10, height * 9 // 10))


def recompress(image: Image.Image) -> Image.Image:
    with Image.open(io.BytesIO(jpeg(image, quality=30))) as small:
        return small.convert("RGB")


@pytest.mark.parametrize("edit", [ImageOps.mirror, crop, recompress], ids=["flip", "crop", "jpeg"])
def test_an_edited_photo_is_nearest_to_its_original(
    embedder: EfficientNetLite0, originals: NDArray[np.float32], edit: Callable[[Image.Image], Image.Image]
) -> None:
    """Flipped, cropped to four fifths, or saved at quality 30, each photo finds itself among all of them."""
    edited = embedder.embed(np.stack([embedder.preprocessing.apply(edit(image)) for image in photos().values()]))
    nearest = (edited @ originals.T).argmax(axis=1)
    assert nearest.tolist() == list(range(len(photos())))
