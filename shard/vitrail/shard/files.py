"""Files of a partition: append-only ones that are read through a memory map, and how files are vouched for.

An append-only file grows by `write`, never through the mapping: on a full disk a write fails with an error that can
be handled, a store into a mapping with a SIGBUS that cannot. It is extended sparsely ahead of its end, so that one
mapping serves until the file has doubled; bytes past the end read as zeros and belong to nobody.

Hashes are XXH3, 128 bits, one for each 8 MiB: they find what a disk or a crash has damaged, at the speed of reading,
and an append-only file goes on from its last one. They are no defence against somebody who can write here: he could
write the manifest as well.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

MIN_CAPACITY = 1 << 20
CHUNK = 1 << 23
CLOSED = -1
MADV_POPULATE_READ = 22  # linux/mman.h, since Linux 5.14
DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
LIBC = ctypes.CDLL(None, use_errno=True)


class Mismatch(Exception):
    """A file is missing, too short, or not what was published."""


def is_damage(error: Mismatch | OSError) -> bool:
    """Whether files will never be read again as they were published, and not only not now (too many open files)."""
    return isinstance(error, Mismatch) or error.errno in DAMAGE


class File(BaseModel):
    """A file as it was published: its name, how many of its bytes count, and the hash of each 8 MiB of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    hashes: tuple[str, ...]


class Mark(NamedTuple):
    """A place in an append-only file to which it can be cut back."""

    size: int
    hashes: int
    last: Any


class AppendFile:
    """Bytes that are only ever appended, and the hashes of all of them."""

    def __init__(self, path: Path, published: File | None = None, *, frozen: bool = False) -> None:
        """Create, or open what was published; what lies beyond it is cut off (a crash may have left it there).

        Only the last 8 MiB are compared with what was published; `verify` compares all. A file that is `frozen` is
        somebody else's, who may be writing it: it is read as it was published, and left as it is.

        Raises:
            Mismatch: The file is shorter than it was, or ends differently.
        """
        self.path = path
        self.size = published.size if published else 0
        self._hashes = list(published.hashes[: self.size // CHUNK]) if published else []
        self._last = xxhash.xxh3_128()
        self._frozen = frozen
        self._written = self.size
        """So far bytes were ever written."""
        self._warm: tuple[Any, int] = (None, 0)
        self._file = os.open(path, os.O_RDONLY if frozen else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(self._file).st_size < self.size:
                raise Mismatch(f"{path} is shorter than {self.size} bytes")
            if frozen:
                self._map(self.size)
            else:
                os.ftruncate(self._file, self.size)
                self._extend(max(MIN_CAPACITY, self.size))
            start = len(self._hashes) * CHUNK
            self._last.update(os.pread(self._file, self.size - start, start))  # quicker than through a fresh mapping
            if published and self.described().hashes != published.hashes:
                raise Mismatch(f"{path} does not end as it was published")
        except BaseException:
            os.close(self._file)
            raise

    def append(self, data: bytes | memoryview) -> None:
        """Write at the end.

        Raises:
            OSError: The disk is full; the file is as it was.
        """
        if not memoryview(data).nbytes:
            return
        view = memoryview(data).cast("B")
        if self.size + len(view) > len(self._mapped):
            self._extend(max(self.size + len(view), 2 * len(self._mapped)))
        written = 0
        while written < len(view):
            written += os.pwrite(self._file, view[written:], self.size + written)
            self._written = max(self._written, self.size + written)
        while len(view):
            part, view = view[: CHUNK - self.size % CHUNK], view[CHUNK - self.size % CHUNK :]
            self._last.update(part)
            self.size += len(part)
            if self.size % CHUNK == 0:
                self._hashes.append(self._last.hexdigest())
                self._last = xxhash.xxh3_128()

    @property
    def has_remains(self) -> bool:
        """Whether something lies beyond the end that was written and given up, as on a full disk."""
        return self._written > self.size

    def mark(self) -> Mark:
        return Mark(self.size, len(self._hashes), self._last.copy())

    def cut(self, mark: Mark) -> None:
        """Forget what was appended since."""
        self.size, self._last = mark.size, mark.last
        del self._hashes[mark.hashes :]

    def data(self) -> NDArray[np.uint8]:
        """All bytes written so far, uint8 [size], without a copy; stays valid while the file grows."""
        return self._mapped[: self.size]

    def warm(self) -> None:
        """Map what has been written and is not mapped yet; beside everything else, from any thread.

        A row in a page that the process has not touched costs 8 us to read, in one that it has 1 us (Linux; elsewhere
        nothing happens).
        """
        mapped, end = self._mapped, self.size // CHUNK * CHUNK
        if self._warm[0] is not mapped:
            self._warm = (mapped, 0)
        for start in range(self._warm[1], end, CHUNK):
            LIBC.madvise(ctypes.c_void_p(mapped.ctypes.data + start), ctypes.c_size_t(CHUNK), MADV_POPULATE_READ)
            self._warm = (mapped, start + CHUNK)

    def described(self) -> File:
        """The file as it is now, for a manifest."""
        rest = [self._last.hexdigest()] if self.size % CHUNK else []
        return File(name=self.path.name, size=self.size, hashes=(*self._hashes, *rest))

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        """Close it, if it is open: its descriptor may be another file's by the second time."""
        descriptor, self._file = self._file, CLOSED
        if descriptor == CLOSED:
            return
        if not self._frozen:
            os.ftruncate(descriptor, self.size)
        os.close(descriptor)

    def _extend(self, capacity: int) -> None:
        os.ftruncate(self._file, capacity)
        self._map(capacity)

    def _map(self, size: int) -> None:
        mapped: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if size:
            mapped = np.memmap(self.path, np.uint8, "r", shape=(size,)).view(np.ndarray)
        self._mapped = mapped  # at once, whole: others are reading


@contextlib.contextmanager
def all_or_nothing(*files: AppendFile) -> Iterator[None]:
    """Append to several files; where one cannot be, none has been."""
    before = [(file, file.mark()) for file in files]
    try:
        yield
    except OSError:
        for file, mark in before:
            file.cut(mark)
        raise


def hash_file(path: Path) -> File:
    """Describe a file for a manifest."""
    with path.open("rb") as file:
        hashes = tuple(_hashes(file.fileno(), path.stat().st_size))
    return File(name=path.name, size=path.stat().st_size, hashes=hashes)


def verify(path: Path, published: File) -> Path:
    """Read the bytes of a file that count, and compare them with what was published.

    Raises:
        Mismatch: They differ.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            hashes = zip(published.hashes, _hashes(file.fileno(), published.size), strict=True)
            for number, (wanted, found) in enumerate(hashes):
                if wanted != found:
                    raise Mismatch(f"{path} differs from what was published, from byte {number * CHUNK} on")
    except (FileNotFoundError, ValueError) as error:
        raise Mismatch(f"{path} is not the file that was published: {error}") from error
    return path


def _hashes(file: int, size: int) -> Iterator[str]:
    """The hash of each chunk. One buffer, so that a large file costs no memory."""
    buffer = memoryview(bytearray(min(CHUNK, size)))
    for start in range(0, size, CHUNK):
        part = buffer[: min(CHUNK, size - start)]
        if os.preadv(file, [part], start) < len(part):
            raise ValueError(f"ends before byte {size}")
        yield xxhash.xxh3_128_hexdigest(part)


def available_memory() -> int:
    """Bytes that processes could still take, what only caches files included; 0 where nobody says (not on Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 0


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step: after a crash it holds either what it held or all of `data`."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file is on disk that somebody else wrote, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
