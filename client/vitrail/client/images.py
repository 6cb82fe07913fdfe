"""Images of every kind as the encoded bytes that travel.

Paths and bytes go as they are: decoding is the server's. What is already decoded is encoded here: as PNG,
which loses nothing, up to 4 megapixels; a larger one as JPEG at quality 95, since it is scaled down many
times before anything looks at it, and PNG would be ten times the bytes.
"""

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitrail.client.vectors import Tensor, from_tensor, is_tensor
from vitrail.rpc.errors import InvalidArgument

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
"""An image: the path of a file, encoded bytes, a PIL image, or pixels as an array or a tensor.

Arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; tensors may have the channels first. Pixels are uint8,
or floats in 0 to 1.
"""

PNG_PIXELS = 4_000_000
PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}
JPEG_MODES = {"L", "RGB"}
JPEG_QUALITY = 95
CHANNELS = (1, 3, 4)


def encode(image: ImageLike, field: str = "image") -> bytes:
    """Read or encode an image of any kind.

    Raises:
        InvalidArgument: It is of no such kind, or its file cannot be read.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    try:
        if isinstance(image, (str, os.PathLike)):
            return Path(image).read_bytes()
        return _compress(_picture(image, field))
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL, a picture without pixels
        raise InvalidArgument(f"cannot be read: {error}", field=field) from error


def _picture(image: Any, field: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image)  # encoding would lose the rotation
    if is_tensor(image):
        return Image.fromarray(_pixels(_channels_last(from_tensor(image)), field))
    if isinstance(image, np.ndarray):
        return Image.fromarray(_pixels(image, field))
    raise InvalidArgument(f"{type(image).__name__} is none of path, bytes, PIL image, array, tensor", field=field)


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] in CHANNELS else array


def _pixels(array: NDArray[Any], field: str) -> NDArray[np.uint8]:
    """Check the shape and bring the pixels to uint8, [H, W] or [H, W, C]."""
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)):
        raise InvalidArgument(f"pixels of shape {list(array.shape)}, not [H, W] or [H, W, 1, 3 or 4]", field=field)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():  # so written, NaN fails too
            raise InvalidArgument("float pixels must lie in 0 to 1", field=field)
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InvalidArgument(f"pixels are {array.dtype}, not uint8 or float", field=field)
    return np.ascontiguousarray(array)


def _compress(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    if picture.width * picture.height > PNG_PIXELS and picture.mode in JPEG_MODES:
        picture.save(out, "JPEG", quality=JPEG_QUALITY)
        return out.getvalue()
    if picture.mode not in PNG_MODES:
        picture = picture.convert("RGB")
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
