"""Files of a partition: append-only ones that are read through a memory map, and how a file becomes durable.

An append-only file grows by `write`, never through the mapping: on a full disk a write fails with an error that can
be handled, a store into a mapping with a SIGBUS that cannot. It is extended sparsely ahead of its end, so that one
mapping serves until the file has doubled; bytes past the end read as zeros and belong to nobody.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIN_CAPACITY = 1 << 20
CHUNK = 1 << 22


class AppendFile:
    """Bytes that are only ever appended, with a running SHA-256 of all of them."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open or create; what lies beyond `size` is cut off (a crash may have left it there).

        Raises:
            OSError: The file is shorter than `size`.
        """
        self.path = path
        self.size = size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self._file).st_size < size:
            raise OSError(f"{path} is shorter than {size} bytes")
        os.ftruncate(self._file, size)
        self._hash = hashlib.sha256()
        self._extend(max(MIN_CAPACITY, size))
        for start in range(0, size, CHUNK):
            self._hash.update(self._mapped[start : min(start + CHUNK, size)].data)

    def append(self, data: bytes | memoryview) -> None:
        """Write at the end.

        Raises:
            OSError: The disk is full; the file is as it was.
        """
        view = memoryview(data).cast("B")
        if self.size + len(view) > len(self._mapped):
            self._extend(max(self.size + len(view), 2 * len(self._mapped)))
        written = 0
        while written < len(view):
            written += os.pwrite(self._file, view[written:], self.size + written)
        self.size += len(view)
        self._hash.update(view)

    def cut(self, size: int, state: "hashlib._Hash") -> None:
        """Forget what was appended since `size`, when the hash was `state`."""
        self.size, self._hash = size, state

    def data(self) -> NDArray[np.uint8]:
        """All bytes written so far, uint8 [size], without a copy; stays valid while the file grows."""
        return self._mapped[: self.size]

    def digest(self) -> str:
        return self._hash.hexdigest()

    def hash_state(self) -> "hashlib._Hash":
        return self._hash.copy()

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        os.ftruncate(self._file, self.size)
        os.close(self._file)

    def _extend(self, capacity: int) -> None:
        os.ftruncate(self._file, capacity)
        self._mapped: NDArray[np.uint8] = np.memmap(self.path, np.uint8, "r", shape=(capacity,)).view(np.ndarray)


@contextlib.contextmanager
def all_or_nothing(*files: AppendFile) -> Iterator[None]:
    """Append to several files; where one cannot be, none has been."""
    before = [(file, file.size, file.hash_state()) for file in files]
    try:
        yield
    except OSError:
        for file, size, state in before:
            file.cut(size, state)
        raise


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step: after a crash it holds either what it held or all of `data`."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Wait until a file that somebody else wrote is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    sync_file(path)
