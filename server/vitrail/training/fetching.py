"""Photos that are no files yet, written as files: those of a torchvision data set, and of a collection of a cluster."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from PIL import Image

from vitrail.client import Client, FileError, InvalidArgument, StoredRecord, VitrailError
from vitrail.client.images import encode
from vitrail.client.sources import source_of
from vitrail.training.photos import FOLDERS, Photo, Photos, Split
from vitrail.training.vectors import Vectors

LONGEST = 200
"""Bytes of a file's name; file systems end at 255."""


def of_torchvision(name: str, cache: Path, out: Path, shown: Callable[[int], None] = lambda done: None) -> Photos:
    """Write a data set of torchvision as PNG, a file a photo.

    Args:
        name: Of its class, such as CIFAR10; one that gives a picture and the number of its label.
        cache: Where torchvision has its files, or loads them to.
        out: The folder to write to.
        shown: Is told how many are written.

    Raises:
        InvalidArgument: There is no such data set, or it cannot be loaded.
    """
    photos = []
    for number, (split, place, image, label) in enumerate(_samples(name, cache), 1):
        id = f"{split or 'all'}/{_file_name(label)}/{place:06}.png"
        path = out / id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
        photos.append(Photo(id, label, split))
        shown(number)
    return Photos(source_of(out), sorted(photos))


def _samples(name: str, cache: Path) -> Iterator[tuple[Split, int, Image.Image, str]]:
    from torchvision import datasets

    kind: Any = getattr(datasets, name, None)
    if name not in datasets.__all__:
        raise InvalidArgument(f"torchvision has no data set {name!r}", field="where")
    for split, options in _splits(inspect.signature(kind).parameters):
        try:
            data = kind(cache, **options)
            classes = getattr(data, "classes", None)
            for place in range(len(data)):
                image, target = data[place]
                if not isinstance(image, Image.Image):
                    raise TypeError(f"its samples are {type(image).__name__}, not pictures")
                yield split, place, image, classes[target] if classes else str(int(target))
        except Exception as error:  # each data set has errors of its own
            raise InvalidArgument(f"torchvision's {name} cannot be used: {error}", field="where") from error


def _splits(parameters: Any) -> Iterator[tuple[Split, dict[str, object]]]:
    """What a data set is made with, by split."""
    load: dict[str, object] = {"download": True} if "download" in parameters else {}
    if "train" in parameters:
        yield "train", {"train": True, **load}
        yield "test", {"train": False, **load}
    elif "split" in parameters and parameters["split"].default in FOLDERS:
        yield FOLDERS[parameters["split"].default], load
        if parameters["split"].default != "test":
            yield "test", {"split": "test", **load}
    else:
        yield "", load


def of_collection(
    client: Client, name: str, attribute: str, out: Path, shown: Callable[[int], None] = lambda done: None
) -> tuple[Photos, Vectors]:
    """Write the images of a collection as files; their vectors are those of the records.

    An image is what the collection keeps, or what is found at the record's uri. What has none, or no vector yet, is
    told in what failed.

    Args:
        client: Of the cluster.
        name: Of the collection.
        attribute: Which attribute is the label; a record without it has none.
        out: The folder to write to.
        shown: Is told how many records are done.

    Raises:
        InvalidArgument: No record has such an attribute.
    """
    collection = client.get_collection(name)
    if attribute not in collection.attributes:
        known = ", ".join(sorted(collection.attributes)) or "none"
        raise InvalidArgument(f"{name} has no attribute {attribute!r}; it has: {known}", field="label")
    out.mkdir(parents=True, exist_ok=True)
    photos, vectors, failed = [], [np.empty((0, collection.dimension), np.float32)], []
    for number, record in enumerate(client.list(name, include=["vector"]), 1):
        try:
            if record.vector is None:
                raise OSError("its vector is still to be made")
            image = _image(client, name, collection.keep_images, record)
        except (OSError, VitrailError) as error:
            failed.append(FileError(record.id, str(error)))
        else:
            photo = Photo(_file_name(record.id), str(record.attributes.get(attribute, "")))
            (out / photo.id).write_bytes(image)
            photos.append(photo)
            vectors.append(record.vector[None])
        shown(number)
    order = sorted(range(len(photos)), key=photos.__getitem__)
    photos = [photos[place] for place in order]
    return Photos(source_of(out), photos, failed), Vectors(photos, np.concatenate(vectors)[order], failed)


def _image(client: Client, name: str, kept: bool, record: StoredRecord) -> bytes:
    if kept:
        image = client.get(name, record.id, include=["image"]).image
        if image is not None:
            return image
    if not record.uri:
        raise OSError("the collection keeps no image of it, and it has no uri")
    uri = unquote(record.uri) if record.uri.startswith("file:") else record.uri
    folder, _, file = uri.rpartition("/")
    return source_of(folder).read(file)


def _file_name(text: str) -> str:
    """A name that says what it is for where a file system takes that."""
    name = quote(text, safe=" ")
    if not name or name.startswith(".") or len(name) > LONGEST or name != name.strip():
        return hashlib.sha256(text.encode()).hexdigest()
    return name
