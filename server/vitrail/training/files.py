"""What the files of photos are: their bytes, their sizes, and which of them are no photos."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.client import FileError, InvalidArgument
from vitrail.client.folder import ahead
from vitrail.client.sources import Source
from vitrail.server.decode import ImageLimits, decode, size
from vitrail.server.embedders.network import Floats
from vitrail.training.photos import Photo, Photos

TINY = 16
"""Pixels of each side of a photo that is only told from others."""


class Seen(NamedTuple):
    """A photo that can be decoded."""

    photo: Photo
    hash: bytes
    """SHA-256 of the file."""
    bytes: int
    width: int
    height: int
    tiny: Floats
    """float32 [256]: its grey levels, without their mean and of length 1; zeros where it is of one colour."""


def see(photos: Photos, shown: Callable[[int], None] = lambda done: None) -> tuple[list[Seen], list[FileError]]:
    """Read and decode each photo; those that cannot be, and why. `shown` is told how many are done."""
    seen: list[Seen] = []
    failed = list(photos.unread)
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for done, each in enumerate(ahead(threads, partial(_see, photos.source), photos.all), 1):
            if isinstance(each, FileError):
                failed.append(each)
            else:
                seen.append(each)
            shown(done)
    return seen, failed


def _see(source: Source, photo: Photo) -> Seen | FileError:
    try:
        data = source.read(photo.id)
        width, height = size(data, ImageLimits())
        image = decode(data, ImageLimits(), TINY)
    except (OSError, InvalidArgument) as error:
        return FileError(source.shown(photo.id), str(error))
    return Seen(photo, hashlib.sha256(data).digest(), len(data), width, height, _tiny(image))


def _tiny(image: Image.Image) -> Floats:
    grey = np.asarray(image.convert("L").resize((TINY, TINY), Image.Resampling.BOX), np.float32).ravel()
    grey = grey - grey.mean()
    length = float(np.linalg.norm(grey))
    tiny: Floats = grey / np.float32(length) if length > TINY else np.zeros_like(grey)
    return tiny
