"""Where image files lie: a local folder, or a place in an object store that fsspec knows.

A file is known by its id: its path below there, with "/" between the parts. What is hidden is left out.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Protocol

from vitrail.client.batches import MESSAGE_LIMIT
from vitrail.client.models import FileError
from vitrail.rpc.errors import InvalidArgument

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}


class Entry(NamedTuple):
    """An image file, by its suffix."""

    id: str
    size: int
    """Bytes, when it was listed; 0 where nobody knows."""


class Source(Protocol):
    """A place with image files. Its methods block, and may be called from threads.

    Attributes:
        readers: How many files are best read at a time.
    """

    readers: ClassVar[int]

    def find(self) -> Iterator[Entry | FileError]:
        """Find the image files, and the folders that cannot be read."""

    def read(self, id: str) -> bytes:
        """Read a file.

        Raises:
            OSError: It cannot be.
        """

    def uri(self, id: str) -> str:
        """Where a file is, for programs."""

    def shown(self, id: str) -> str:
        """Where a file is, as it can be printed."""


class Folder:
    """A local folder."""

    readers = 4

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self) -> Iterator[Entry | FileError]:
        """See `Source.find`. Devices and pipes are left out, since they might never end."""
        errors: list[OSError] = []
        for parent, folders, names in os.walk(self._root, onerror=errors.append):
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            for path in (Path(parent, name) for name in sorted(names) if _is_image(name)):
                size = _size(path)
                if size is not None:
                    yield Entry(path.relative_to(self._root).as_posix(), size)
        yield from (FileError(printable(error.filename), error.strerror or str(error)) for error in errors)

    def read(self, id: str) -> bytes:
        """See `Source.read`. What no message could hold is not loaded."""
        path = self._root / id
        size = path.stat().st_size
        if size > MESSAGE_LIMIT:
            raise OSError(errno.EFBIG, f"{size:,} bytes, and a message holds {MESSAGE_LIMIT:,}")
        return path.read_bytes()

    def uri(self, id: str) -> str:
        return (self._root / id).absolute().as_uri()

    def shown(self, id: str) -> str:
        return printable(self._root / id)


class Bucket:
    """A place in an object store."""

    readers = 32  # each waits for an answer most of the time

    def __init__(self, store: Any, root: str) -> None:
        """Nothing is asked yet.

        Args:
            store: A filesystem of fsspec.
            root: The path of the place in it.
        """
        self._store = store
        self._root = root

    def find(self) -> Iterator[Entry | FileError]:
        """See `Source.find`. Listed folder by folder: a listing of a whole bucket may not fit into memory."""
        waiting = [self._root]
        while waiting:
            folder = waiting.pop()
            try:
                listing = self._store.ls(folder, detail=True)
            except Exception as error:  # each object store has errors of its own
                yield FileError(self._store.unstrip_protocol(folder), _said(error))
                continue
            for info in listing:
                path = info["name"].rstrip("/")
                name = path.rpartition("/")[2]
                if info["type"] == "directory":
                    waiting += [path] if path != folder and not _is_hidden(name) else []
                elif _is_image(name):
                    yield Entry(path.removeprefix(self._root).lstrip("/"), info["size"] or 0)

    def read(self, id: str) -> bytes:
        """See `Source.read`. Of what no message could hold, no more than a message is loaded."""
        try:
            data: bytes = self._store.cat_file(f"{self._root}/{id}", end=MESSAGE_LIMIT + 1)
        except Exception as error:
            raise OSError(_said(error)) from error
        if len(data) > MESSAGE_LIMIT:
            raise OSError(errno.EFBIG, f"a message holds {MESSAGE_LIMIT:,} bytes, and it has more")
        return data

    def uri(self, id: str) -> str:
        return str(self._store.unstrip_protocol(f"{self._root}/{id}"))

    shown = uri


def source_of(folder: str | os.PathLike[str]) -> Source:
    """Open a folder, or what a URL leads to.

    Raises:
        InvalidArgument: There is no such folder, or nothing here can open the URL.
    """
    where = os.fspath(folder)
    if "://" not in where:
        return _local(Path(where))
    try:
        import fsspec  # comes with the packages that bring the object stores
        from fsspec.implementations.local import LocalFileSystem

        store, root = fsspec.url_to_fs(where, use_listings_cache=False)
        if isinstance(store, LocalFileSystem):
            return _local(Path(root))
        found = store.isdir(root)
    except Exception as error:  # each object store has errors of its own
        raise InvalidArgument(f"{where} cannot be opened: {_said(error)}", field="folder") from error
    if not found:
        raise InvalidArgument(f"{where} is not a folder", field="folder")
    return Bucket(store, root)


def printable(path: str | os.PathLike[str]) -> str:
    """A path that can be printed, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _local(root: Path) -> Folder:
    if not root.is_dir():
        raise InvalidArgument(f"{root} is not a folder", field="folder")
    return Folder(root)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and PurePosixPath(name).suffix.lower() in SUFFIXES


def _size(path: Path) -> int | None:
    """The size of a file; None of what is no file. A broken link is reported when it is read."""
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
