"""A folder, or a part of it, whose image files become records.

Files are read a little ahead in threads, and two calls are under way at a time, so that the server decodes
one batch while it embeds the other. Nothing is kept about what was done: what the collection holds already,
with the same content, is skipped, and so an interrupted run goes on where it stopped.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from vitrail.client.batches import MESSAGE_LIMIT, batches
from vitrail.client.models import FileError, IndexReport, Record, StoredRecord, UpsertResult
from vitrail.client.parts import Part
from vitrail.client.progress import bar
from vitrail.client.sources import Entry, Source

LOOK_AHEAD = 32
FILES_PER_CALL = 64
BYTES_PER_CALL = 4 * 1024 * 1024
CALLS_IN_FLIGHT = 2

T = TypeVar("T")
R = TypeVar("R")
Send = Callable[[list[Record]], UpsertResult]


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read."""

    id: str
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


def index_folder(
    source: Source, part: Part, known: Callable[[], Iterable[StoredRecord]], send: Send, progress: bool
) -> IndexReport:
    """Send the image files of a folder, nested ones too.

    Args:
        source: Where they are.
        part: Which of them.
        known: Gives the records that are there already.
        send: Writes records; it is called from threads.
        progress: Whether to draw a bar on standard error.
    """
    started = time.monotonic()
    entries, unread = scan(source, part)
    hashes = {record.id: record.content_hash for record in known() if record.id in entries}
    with ExitStack() as stack:
        shown = stack.enter_context(bar("indexing", len(entries) + len(unread), progress))
        readers, senders = _pool(stack, source.readers), _pool(stack, CALLS_IN_FLIGHT)
        tally = Tally(shown)
        tally.add(failed=unread)
        in_flight: deque[tuple[list[File], Future[UpsertResult]]] = deque()
        files = fresh(ahead(readers, partial(read, source), entries.values()), hashes, tally)
        for batch in batches(files, _size, max_items=FILES_PER_CALL, max_bytes=BYTES_PER_CALL):
            if len(in_flight) == CALLS_IN_FLIGHT:
                settle(tally, source, *in_flight.popleft())
            records = [record_of(source, file) for file in batch]
            in_flight.append((batch, senders.submit(send, records)))
        while in_flight:
            settle(tally, source, *in_flight.popleft())
    return tally.report(time.monotonic() - started)


def scan(source: Source, part: Part) -> tuple[dict[str, Entry], list[FileError]]:
    """Find the files of a part by their ids, and the folders that cannot be read, whose files may be of any part."""
    entries: dict[str, Entry] = {}
    unread: list[FileError] = []
    for found in source.find():
        if isinstance(found, FileError):
            unread.append(found)
        elif part.has(found.id):
            entries[found.id] = found
    return entries, unread


def ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What work makes of items, in order, never more than `LOOK_AHEAD` beyond what was taken."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) == LOOK_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read(source: Source, entry: Entry) -> File | FileError:
    if entry.size > MESSAGE_LIMIT:
        return FileError(source.shown(entry.id), f"{entry.size:,} bytes, and a message holds {MESSAGE_LIMIT:,}")
    try:
        data = source.read(entry.id)
    except OSError as error:
        return FileError(source.shown(entry.id), error.strerror or str(error))
    return File(entry.id, data, hashlib.sha256(data).digest())


def fresh(files: Iterable[File | FileError], hashes: dict[str, bytes], tally: Tally) -> Iterator[File]:
    """The files that must be sent; the others are counted."""
    for file in files:
        if isinstance(file, FileError):
            tally.add(failed=[file])
        elif hashes.get(file.id) == file.content_hash:
            tally.add(skipped=1)
        else:
            yield file


def settle(tally: Tally, source: Source, batch: list[File], call: Future[UpsertResult]) -> None:
    """Wait for a call, and count what became of its files."""
    result = call.result()
    tally.seq = max(tally.seq, result.seq)
    failed = [FileError(source.shown(batch[error.index].id), error.message) for error in result.errors]
    tally.add(indexed=len(batch) - len(failed), failed=failed)


def record_of(source: Source, file: File) -> Record:
    """The record of a file: the first folder on the way to it, if there is one, is its category."""
    category, nested, _ = file.id.partition("/")
    return Record(
        id=file.id,
        image=file.data,
        attributes={"category": category} if nested else {},
        uri=source.uri(file.id),
    )


def _size(file: File) -> int:
    return len(file.data)


def _pool(stack: ExitStack, threads: int) -> ThreadPoolExecutor:
    """Threads that an error or Ctrl-C does not wait for."""
    pool = ThreadPoolExecutor(threads)
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return pool
