"""Snapshots of partitions in an object store: written while a shard runs, started from where it has lost its own.

Each partition is written at most every five minutes, by one process: the others of its place see that somebody wrote
lately, and leave it. Nothing here is ever waited for by a search or a write, and whatever goes wrong is counted and
logged: the log has it all.
"""

import asyncio
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import structlog

from vitrail.shard import manifest, metrics
from vitrail.shard.files import Mismatch
from vitrail.shard.life import be_nice
from vitrail.shard.partition import BUILDING, Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.place import Place, Published, Stopped

log = structlog.get_logger()
T = TypeVar("T")

TICK_SECONDS = 1.0
WRITE_SECONDS = 300.0
# A snapshot that nobody has written for so long is of a collection or a layout that is no more.
STALE_SECONDS = 86_400.0
TIDY_SECONDS = 3600.0
PLACE = re.compile(rf"/\d+/(\d+)-(\d+)/{re.escape(manifest.NAME)}")


class Snapshots:
    """Writes the partitions of a shard to an object store, and reads them back."""

    def __init__(self, url: str, directory: Path, partitions: Partitions, writer: Executor) -> None:
        """Nothing is asked of the object store yet.

        Args:
            url: Of the object store, as fsspec reads it; or a directory.
            directory: Where the shard keeps its data.
            partitions: Its partitions.
            writer: Its writing thread.

        Raises:
            ValueError: fsspec does not know the URL, or lacks a package for it.
        """
        import fsspec  # a tenth of a second, for those who ask for it

        try:
            self._store, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ValueError(f"snapshots: {error}") from error
        self._partitions = partitions
        self._writer = writer
        # The same after a restart, so that the next snapshot need not wait until that of another process is old.
        self._name = sha256(f"{socket.gethostname()}:{directory.absolute()}".encode()).hexdigest()[:16]
        self._thread = ThreadPoolExecutor(1, "snapshots", initializer=be_nice)
        self._ended = threading.Event()
        self._tried_at: dict[int, float] = {}

    async def run(self) -> None:
        """Write what is published, again and again, until cancelled."""
        tidy_at = time.monotonic() + TIDY_SECONDS
        while True:
            for partition in self._partitions:
                if time.monotonic() - self._tried_at.get(partition.collection.uid, -WRITE_SECONDS) >= WRITE_SECONDS:
                    await self._write(partition)
            if time.monotonic() >= tidy_at:
                tidy_at += TIDY_SECONDS
                await self._counted("deleted", "cannot delete old snapshots", self._delete_stale)
            await asyncio.sleep(TICK_SECONDS)

    async def restore(self, partition: Partition) -> None:
        """Have a partition without content start from its snapshot, if there is one that can be used."""
        directory = partition.directory / f"{BUILDING}{uuid4().hex[:8]}"
        name = partition.collection.name
        fetch = partial(self._fetch, partition, directory)
        if await self._counted("read", "cannot start from a snapshot", fetch, collection=name):
            await self._in(self._writer, partial(self._adopt, partition, directory))

    def close(self) -> None:
        """Give up what is under way."""
        self._ended.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _write(self, partition: Partition) -> None:
        """Write a partition, once it is published and verified."""
        uid, name = partition.collection.uid, partition.collection.name
        try:
            published = await self._in(self._writer, partial(_published, partition))
        except (Mismatch, OSError) as error:
            self._tried_at[uid] = time.monotonic()
            log.error("cannot write a snapshot", collection=name, why=str(error))
            return
        if published is not None:
            self._tried_at[uid] = time.monotonic()
            send = partial(self._send, uid, published)
            await self._counted("written", "cannot write a snapshot", send, collection=name)

    async def _counted(self, what: str, failure: str, work: Callable[[], bool], **where: str) -> bool:
        """Work in the thread for it; returns whether it did something."""
        start = time.monotonic()
        try:
            done = await self._in(self._thread, work)
        except Stopped:
            return False
        except Exception as error:  # each object store has errors of its own
            metrics.SNAPSHOTS.labels(what, "failed").inc()
            log.error(failure, why=str(error) or repr(error), **where)
            return False
        if done:
            metrics.SNAPSHOTS.labels(what, "done").inc()
            log.info(f"a snapshot was {what}", seconds=round(time.monotonic() - start, 1), **where)
        return done

    def _adopt(self, partition: Partition, directory: Path) -> None:
        """In the writing thread."""
        try:
            self._partitions.adopt(partition, directory)
        except OSError as error:
            log.error("cannot start from a snapshot", collection=partition.collection.name, why=str(error))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    # In the thread for it.

    def _send(self, uid: int, published: Published) -> bool:
        """Write a snapshot, unless another process does."""
        place = self._place(uid)
        with published:
            try:
                before = place.read()
            except Mismatch as error:
                before = None
                log.warning("writing over a snapshot that cannot be used", why=str(error))
            if before and before.writer != self._name and abs(time.time() - before.written_at) < 2 * WRITE_SECONDS:
                return False
            place.write(published, self._name, before)
        return True

    def _fetch(self, partition: Partition, directory: Path) -> bool:
        """Fetch the snapshot of a partition to a directory, which is made.

        Raises:
            Mismatch: It is damaged, or of something else.
        """
        place = self._place(partition.collection.uid)
        listing = place.read()
        if listing is None:
            return False
        partition.check(listing.partition)
        directory.mkdir()
        try:
            place.fetch(listing, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return True

    def _delete_stale(self) -> bool:
        """Delete the snapshots that share slots with this shard's, and that nobody has written for long."""
        begin, end = self._partitions.slots
        stale = []
        for path in self._store.glob(f"{self._root}/*/*/{manifest.NAME}"):
            place = PLACE.fullmatch(path.removeprefix(self._root))
            if place is None or int(place[2]) <= begin or end <= int(place[1]):
                continue
            if time.time() - self._store.modified(path).timestamp() > STALE_SECONDS:
                stale.append(path.rpartition("/")[0])
        for path in stale:
            self._store.rm(path, recursive=True)
        return bool(stale)

    def _place(self, uid: int) -> Place:
        begin, end = self._partitions.slots
        return Place(self._store, f"{self._root}/{uid}/{begin}-{end}", lambda: not self._ended.is_set())

    async def _in(self, executor: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


def _published(partition: Partition) -> Published | None:
    """What a partition has published, where that is whole and a place in the log."""
    if not partition.life or partition.unverified is not None:
        return None
    published = manifest.read(partition.directory)
    return Published(partition.directory, published) if published and published.seq else None
