"""Labelled photos: where they lie, what each shows, and which split it is in.

They come from a folder or from a table. In a folder, the first part of a photo's path is its label
(`hat/a.jpg`); where all of the first parts name splits, the second one is (`train/hat/a.jpg`). A table is CSV with the
columns `path` and `label`, and `split` and `group` where it has them; paths are relative to the folder of the table, or
to another one that is given, or that the manifest beside it names. `vitrail dataset` writes such a table and its
manifest: they make the same split again.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, cast, get_args

from vitrail.client import FileError, InvalidArgument
from vitrail.client.sources import Entry, Source, source_of
from vitrail.training.replacing import replacing

Split = Literal["", "train", "validation", "test"]
SPLITS: Sequence[Split] = get_args(Split)
FOLDERS: dict[str, Split] = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
FOLDERS |= {"test": "test"}
"""What a split may be called, as a folder and by torchvision."""
MANIFEST = "dataset.json"
"""Beside a table; its `photos` says where these lie: a path, from the folder of the table, or what fsspec knows."""
COLUMNS = ("path", "label", "split", "group")


class Photo(NamedTuple):
    """One photo, by its id: its path below the folder, with "/" between the parts."""

    id: str
    label: str
    """What it shows; "" where nobody said."""
    split: Split = ""
    """"" where none was made yet."""
    group: str = ""
    """Photos of one group show the same picture; they are never in two splits. "" where it has no duplicates."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos of one place, in the order of their ids."""

    source: Source
    all: Sequence[Photo]
    unread: Sequence[FileError] = ()
    """Folders that cannot be read."""

    def of(self, *splits: Split) -> "Photos":
        """Those of some splits."""
        return Photos(self.source, [photo for photo in self.all if photo.split in splits], self.unread)


def read_photos(where: str, folder: Path | None = None) -> Photos:
    """Find the photos of a folder, a bucket, or a table (a path that ends in .csv).

    Args:
        where: A path, or what fsspec knows.
        folder: What paths in a table are relative to, instead of its own folder or what its manifest says.

    Raises:
        InvalidArgument: There is no such place, or the table cannot be used; says in which line.
    """
    if not where.endswith(".csv"):
        return _of_folder(source_of(where))
    table = Path(where)
    return Photos(source_of(folder or folder_of(table)), read_table(table))


def folder_of(table: Path) -> str:
    """What the paths in a table are relative to.

    Raises:
        InvalidArgument: There is a manifest beside it that cannot be used.
    """
    manifest = table.with_name(MANIFEST)
    if not manifest.exists():
        return str(table.parent)
    try:
        where = json.loads(manifest.read_text(encoding="utf-8"))["photos"]
        return where if "://" in where else str(table.parent / where)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{manifest} does not say where the photos are: {error!r}", field="table") from error


def read_table(path: Path) -> list[Photo]:
    """The photos of a table, by id.

    Raises:
        InvalidArgument: It cannot be used; says in which line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                raise InvalidArgument(f"{path} has no column {sorted(missing)[0]!r}", field="table")
            photos = [_photo(row, f"{path}:{rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", field="table") from error
    photos.sort()
    for one, other in pairwise(photos):
        if one.id == other.id:
            as_what = f", as {one.label!r} and as {other.label!r}" if one.label != other.label else ""
            raise InvalidArgument(f"{path} has {one.id} twice{as_what}", field="table")
    return photos


def write_table(path: Path, photos: Iterable[Photo]) -> None:
    """Write a table that `read_table` reads."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(photos)


def _photo(row: dict[str, str | None], where: str) -> Photo:
    id, label, split, group = ((row.get(column) or "").strip() for column in COLUMNS)
    parts = PurePosixPath(id).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise InvalidArgument(f"{where}: {id!r} is no path below a folder", field="path")
    if split not in SPLITS:
        raise InvalidArgument(f"{where}: {split!r} is none of {', '.join(SPLITS[1:])}", field="split")
    return Photo(str(PurePosixPath(id)), label, cast("Split", split), group)


def _of_folder(source: Source) -> Photos:
    found = list(source.find())
    entries = [PurePosixPath(each.id).parts for each in found if isinstance(each, Entry)]
    has_splits = bool(entries) and all(len(parts) > 1 and parts[0] in FOLDERS for parts in entries)
    photos = [
        Photo(
            "/".join(parts),
            parts[has_splits] if len(parts) > 1 + has_splits else "",
            FOLDERS[parts[0]] if has_splits else "",
        )
        for parts in entries
    ]
    return Photos(source, sorted(photos), [each for each in found if isinstance(each, FileError)])
