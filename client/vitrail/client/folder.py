"""A folder whose image files become records.

Files are read a little ahead in threads, and two calls are under way at a time, so that the server decodes
one batch while it embeds the other. Nothing is kept about what was done: what the collection holds already,
with the same content, is skipped, and so an interrupted run goes on where it stopped.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vitrail.client.batches import batches
from vitrail.client.models import FileError, IndexReport, Record, UpsertResult
from vitrail.client.progress import bar
from vitrail.rpc.errors import InvalidArgument

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
READERS = 4
LOOK_AHEAD = 32
FILES_PER_CALL = 64
BYTES_PER_CALL = 4 * 1024 * 1024
CALLS_IN_FLIGHT = 2

Send = Callable[[list[Record]], UpsertResult]


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read."""

    path: Path
    data: bytes
    content_hash: bytes


class Tally:
    """What became of the files so far, and who is told of it."""

    def __init__(self, shown: Callable[[int], None]) -> None:
        self.indexed = self.skipped = self.seq = 0
        self.failed: list[FileError] = []
        self._shown = shown

    def add(self, *, indexed: int = 0, skipped: int = 0, failed: Iterable[FileError] = ()) -> None:
        self.indexed += indexed
        self.skipped += skipped
        self.failed += failed
        self._shown(self.indexed + self.skipped + len(self.failed))

    def report(self, seconds: float) -> IndexReport:
        failed = sorted(self.failed, key=lambda error: error.path)
        return IndexReport(self.indexed, self.skipped, tuple(failed), seconds, self.seq)


def index_folder(folder: Path, known: Callable[[], dict[str, bytes]], send: Send, progress: bool) -> IndexReport:
    """Send the image files of a folder, nested ones too.

    Args:
        folder: Where they are.
        known: Gives the content hashes of the records that are there already, by id.
        send: Writes records; it is called from threads.
        progress: Whether to draw a bar on standard error.

    Raises:
        InvalidArgument: There is no such folder.
    """
    started = time.monotonic()
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder", field="folder")
    hashes = known()
    paths, unread = scan(folder)
    with ExitStack() as stack:
        shown = stack.enter_context(bar("indexing", len(paths) + len(unread), progress))
        readers, senders = _pool(stack, READERS), _pool(stack, CALLS_IN_FLIGHT)
        tally = Tally(shown)
        tally.add(failed=unread)
        in_flight: deque[tuple[list[File], Future[UpsertResult]]] = deque()
        files = fresh(folder, read_ahead(readers, paths), hashes, tally)
        for batch in batches(files, _size, max_items=FILES_PER_CALL, max_bytes=BYTES_PER_CALL):
            if len(in_flight) == CALLS_IN_FLIGHT:
                settle(tally, *in_flight.popleft())
            records = [record_of(folder, file) for file in batch]
            in_flight.append((batch, senders.submit(send, records)))
        while in_flight:
            settle(tally, *in_flight.popleft())
    return tally.report(time.monotonic() - started)


def scan(folder: Path) -> tuple[list[Path], list[FileError]]:
    """Find the image files of a folder by their suffixes, and the folders in it that cannot be read.

    What is hidden is left out, and so are devices and pipes, which might never end.
    """
    errors: list[FileError] = []
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: errors.append(_unread(error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        paths += [path for path in found if path.suffix.lower() in SUFFIXES and _is_file(path)]
    return paths, errors


def read_ahead(pool: ThreadPoolExecutor, paths: Iterable[Path]) -> Iterator[File | FileError]:
    """Read files in order, never more than `LOOK_AHEAD` beyond what was taken."""
    waiting: deque[Future[File | FileError]] = deque()
    for path in paths:
        waiting.append(pool.submit(read, path))
        if len(waiting) == LOOK_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read(path: Path) -> File | FileError:
    try:
        data = path.read_bytes()
    except OSError as error:
        return FileError(shown_path(path), error.strerror or str(error))
    return File(path, data, hashlib.sha256(data).digest())


def fresh(folder: Path, files: Iterable[File | FileError], hashes: dict[str, bytes], tally: Tally) -> Iterator[File]:
    """The files that must be sent; the others are counted."""
    for file in files:
        if isinstance(file, FileError):
            tally.add(failed=[file])
        elif hashes.get(id_of(folder, file.path)) == file.content_hash:
            tally.add(skipped=1)
        else:
            yield file


def settle(tally: Tally, batch: list[File], call: Future[UpsertResult]) -> None:
    """Wait for a call, and count what became of its files."""
    result = call.result()
    tally.seq = max(tally.seq, result.seq)
    failed = [FileError(shown_path(batch[error.index].path), error.message) for error in result.errors]
    tally.add(indexed=len(batch) - len(failed), failed=failed)


def record_of(folder: Path, file: File) -> Record:
    """The record of a file: the first folder on the way to it, if there is one, is its category."""
    parents = file.path.relative_to(folder).parts[:-1]
    return Record(
        id=id_of(folder, file.path),
        image=file.data,
        attributes={"category": parents[0]} if parents else {},
        uri=file.path.absolute().as_uri(),
    )


def id_of(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path that can be printed, whatever bytes are in it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_file(path: Path) -> bool:
    return path.is_file() or path.is_symlink()  # a broken link is reported when it is read


def _unread(error: OSError) -> FileError:
    return FileError(shown_path(error.filename), error.strerror or str(error))


def _size(file: File) -> int:
    return len(file.data)


def _pool(stack: ExitStack, threads: int) -> ThreadPoolExecutor:
    """Threads that an error or Ctrl-C does not wait for."""
    pool = ThreadPoolExecutor(threads)
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return pool
