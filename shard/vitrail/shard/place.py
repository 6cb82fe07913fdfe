"""The snapshot of a partition in an object store: what it is made of, how it is written and how it is fetched.

Its place is `COLLECTION_UID/SLOT_BEGIN-SLOT_END`. Each object under `chunks/` there is 8 MiB of a file, or its last
bytes, and has their SHA-256 as its name: what an append-only file held before is never sent again, and writing a
chunk twice changes nothing. `manifest.json` says which chunks make which files, and is replaced last, in one step.

A chunk is deleted an hour after the manifest ceased to name it, since another process may be fetching it until then.
So what a partition has left behind outlives its next snapshot by an hour. The names vouch for the chunks, and the
manifest for the names: who may write there decides what shards answer, as one does who may write to their disks.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self

import xxhash
from pydantic import BaseModel, Field

from vitrail.shard import manifest, metrics
from vitrail.shard.files import CHUNK, Mismatch
from vitrail.shard.manifest import CONFIG, Manifest

FORMAT = 1
MAX_LISTING_BYTES = 1 << 26
"""Four times what a partition of a terabyte needs."""
UNUSED_SECONDS = 3600.0
# Chunks that are fetched at a time: one after the other, an object store is slower than a disk.
AT_ONCE = 4
PATH = re.compile(r"([a-z0-9-]+/)?[a-z0-9-]+")

ChunkName = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stopped(Exception):
    """The shard ends."""


class Listing(BaseModel):
    """What a snapshot consists of: the `manifest.json` there."""

    model_config = CONFIG
    format: int = FORMAT
    writer: str
    """Which process wrote it."""
    written_at: float
    """Seconds since 1970, by the writer's clock."""
    partition: Manifest
    chunks: dict[str, tuple[ChunkName, ...]]
    """Of each file by its path in the partition, in order."""
    unused: dict[ChunkName, float]
    """Chunks that lie there and are named no more, and since when."""


class Published:
    """What a partition has published, held open: what it deletes meanwhile can be read until `close`."""

    def __init__(self, directory: Path, published: Manifest) -> None:
        """Open all files.

        Raises:
            OSError: One cannot be.
        """
        self.manifest = published
        self.files = published.files()
        self._descriptors: dict[str, int] = {}
        try:
            for path in self.files:
                self._descriptors[path] = os.open(directory / path, os.O_RDONLY)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: str, number: int) -> bytes:
        """A chunk of a file.

        Raises:
            Mismatch: It is not what was published.
        """
        file, start = self.files[path], number * CHUNK
        data = os.pread(self._descriptors[path], min(CHUNK, file.size - start), start)
        if xxhash.xxh3_128_hexdigest(data) != file.hashes[number]:
            raise Mismatch(f"{path} differs from what was published, from byte {start} on")
        return data

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class Place:
    """One place of an object store. Everything here blocks, and raises what the store raises, which may be anything."""

    def __init__(self, store: Any, path: str, go_on: Callable[[], bool]) -> None:
        """Nothing is asked yet.

        Args:
            store: A filesystem of fsspec.
            path: Of the place in it.
            go_on: Asked before each step that takes long; where it says no, that raises `Stopped`.
        """
        self._store = store
        self._path = path
        self._go_on = go_on

    def read(self) -> Listing | None:
        """What is there; None where nothing is.

        Raises:
            Mismatch: It is no snapshot of this version.
        """
        self._store.invalidate_cache()
        try:
            with self._store.open(f"{self._path}/{manifest.NAME}", "rb") as file:
                data = file.read(MAX_LISTING_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) > MAX_LISTING_BYTES:
            raise Mismatch(f"the manifest has more than {MAX_LISTING_BYTES} bytes")
        try:
            listing = Listing.model_validate_json(data)
        except ValueError as error:
            raise Mismatch(f"the manifest cannot be read: {error}") from error
        _check(listing)
        return listing

    def write(self, published: Published, writer: str, before: Listing | None) -> None:
        """Write a snapshot over the one that was there `before`.

        Raises:
            Mismatch: A file is not what was published.
            Stopped: The shard ends.
        """
        self._store.makedirs(f"{self._path}/chunks", exist_ok=True)  # does nothing where there are no directories
        there = self._there()
        chunks = dict(self._send(published, _known(before), there))
        used, now = {name for names in chunks.values() for name in names}, time.time()
        since = {name: min(now, before.unused.get(name, now)) if before else now for name in there.keys() - used}
        old = [name for name, moment in since.items() if now - moment > UNUSED_SECONDS]
        listing = Listing(
            writer=writer,
            written_at=now,
            partition=published.manifest,
            chunks=chunks,
            unused={name: moment for name, moment in since.items() if name not in old},
        )
        target = f"{self._path}/{manifest.NAME}"
        self._store.pipe_file(f"{target}.{writer}", listing.model_dump_json().encode())
        self._store.mv(f"{target}.{writer}", target)
        if old:
            self._store.rm([self._chunk(name) for name in old])

    def fetch(self, listing: Listing, directory: Path) -> None:
        """Write the files of a snapshot to a directory, each chunk compared with its name first.

        Raises:
            Mismatch: A chunk is damaged or missing.
            OSError: The disk has no room for it.
            Stopped: The shard ends.
        """
        files = listing.partition.files()
        size, free = sum(file.size for file in files.values()), shutil.disk_usage(directory).free
        if size > free:
            raise OSError(f"it has {size:,} bytes, and the disk {free:,} left")
        for path, file in files.items():
            (directory / path).parent.mkdir(exist_ok=True)
            with (directory / path).open("xb") as target:
                for data in self._fetched(listing.chunks[path], file.size):
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
        listing.partition.write(directory)

    def _there(self) -> dict[str, int]:
        """The size of each chunk there by its name."""
        found = self._store.find(f"{self._path}/chunks", detail=True)
        return {path.rpartition("/")[2]: int(info["size"]) for path, info in found.items()}

    def _send(
        self, published: Published, known: dict[tuple[str, int, str], str], there: dict[str, int]
    ) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The chunks of each file; sends those that are not there."""
        for path, file in published.files.items():
            names = []
            for number, hash in enumerate(file.hashes):
                size = min(CHUNK, file.size - number * CHUNK)
                name = known.get((path, number, hash), "")
                if there.get(name) != size:
                    self._stop_or_go_on()
                    data = published.read(path, number)
                    name = sha256(data).hexdigest()
                    if there.get(name) != size:
                        self._store.pipe_file(self._chunk(name), data)
                        metrics.SNAPSHOT_BYTES.labels("written").inc(size)
                names.append(name)
            yield path, tuple(names)

    def _fetched(self, names: tuple[str, ...], size: int) -> Iterator[bytes]:
        """The bytes of some chunks, which make a file of this size."""
        for first in range(0, len(names), AT_ONCE):
            self._stop_or_go_on()
            some = names[first : first + AT_ONCE]
            sizes = [min(CHUNK, size - (first + number) * CHUNK) for number in range(len(some))]
            parts = self._store.cat_ranges(
                [self._chunk(name) for name in some], [0] * len(some), sizes, on_error="raise"
            )
            for name, wanted, data in zip(some, sizes, parts, strict=True):
                if len(data) != wanted or sha256(data).hexdigest() != name:
                    raise Mismatch(f"the chunk {name} is damaged")
                metrics.SNAPSHOT_BYTES.labels("read").inc(wanted)
                yield data

    def _chunk(self, name: str) -> str:
        return f"{self._path}/chunks/{name}"

    def _stop_or_go_on(self) -> None:
        if not self._go_on():
            raise Stopped


def _known(listing: Listing | None) -> dict[tuple[str, int, str], str]:
    """The names of chunks by path, number and the hash that the partition's manifest has.

    By all three: that hash alone tells what was damaged from what was not, and nobody's bytes from another's.
    """
    return {
        (path, number, hash): name
        for path, file in (listing.partition.files() if listing else {}).items()
        for number, (hash, name) in enumerate(zip(file.hashes, listing.chunks[path] if listing else (), strict=True))
    }


def _check(listing: Listing) -> None:
    """Refuse what would be written to other places than a partition's own, or does not fit together.

    Raises:
        Mismatch: It is so.
    """
    files = listing.partition.files()
    if (listing.format, listing.partition.format) != (FORMAT, manifest.FORMAT):
        raise Mismatch(f"the snapshot has formats {listing.format} and {listing.partition.format}")
    if files.keys() != listing.chunks.keys():
        raise Mismatch("the manifest names chunks of other files than the partition has")
    for path, file in files.items():
        if not PATH.fullmatch(path):
            raise Mismatch(f"{path!r} is no name of a file of a partition")
        if not len(file.hashes) == len(listing.chunks[path]) == -(-max(0, file.size) // CHUNK):
            raise Mismatch(f"{path} of {file.size} bytes has {len(listing.chunks[path])} chunks")
