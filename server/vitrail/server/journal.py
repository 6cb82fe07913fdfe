"""The way to the store for everything that runs on the event loop.

Reads go to a few threads. Writes go to one: what waits is committed together, since one commit is one fsync, and
acknowledged after it. Every commit is news to those who follow the log.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import NotFound, Unavailable
from vitrail.server import metrics
from vitrail.server.batching import Batcher, Ticket
from vitrail.server.catalog import Catalog, News
from vitrail.server.store import Store
from vitrail.server.writing import Write, Written
from vitrail.v1.collection_pb2 import Collection

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
# How often to look for what other coordinators have written.
POLL_SECONDS = 0.05
AWAY_SECONDS = 0.25
COMMIT_ROWS = 10_000
WAITING_ROWS = 100_000


class Journal:
    """Reads and writes of one store, with the catalog as the last commit left it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.catalog = Catalog()
        self.is_loaded = False
        """Whether the catalog is the store's own: not where the store was away from the start."""
        self.news = News()
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._writer = ThreadPoolExecutor(1, "store-write")
        self.batcher: Batcher[Write, Written] = Batcher("write", self._commit, limit=COMMIT_ROWS, capacity=WAITING_ROWS)

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read of the store in a thread."""
        return await self._in(self._readers, partial(work, *args, **kwargs))

    async def write(self, write: Write, deadline: Deadline) -> Written:
        """Write and wait for the commit.

        Raises:
            NotFound: The collection was deleted meanwhile.
            Unavailable: The store failed; nothing was written.
            DeadlineExceeded: The time was over before the commit ended; it may have been written.
        """
        return await self.batcher.submit(write, deadline, len(write))

    async def change(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of the store in the writer's thread, between two commits."""
        return await self._in(self._writer, partial(work, *args, **kwargs))

    async def change_catalog(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of the catalog in the writer's thread, and see it; or, where it is refused, what it met.

        Another coordinator may have made that: whoever hears that a collection exists already finds it here.
        """
        try:
            return await self._in(self._writer, partial(work, *args, **kwargs))
        finally:
            await self.load_catalog()

    async def load_catalog(self) -> None:
        seq, collections = await self._in(self._writer, self.store.read_catalog)
        self.catalog.replace(seq, collections, await self._in(self._writer, self.store.wanted_shards))
        self.is_loaded = True
        self.news.tell()

    async def watch(self, told: Callable[[], tuple[int, Sequence[Collection]]]) -> None:
        """Tell the news of what other coordinators write, until cancelled.

        Args:
            told: What shards say of the catalog, with its `seq`: searched by until the store has been there once.
        """
        known, failing = None, False
        while True:
            try:
                heads = await self.read(self.store.heads)
                if heads.catalog_seq != self.catalog.seq or not self.is_loaded:
                    await self.load_catalog()
                elif heads != known:
                    self.news.tell()
                known, failing = heads, False
            except Unavailable as error:
                if not failing:
                    log.warning("the store is away", why=str(error))
                failing = True
                if not self.is_loaded:
                    self.catalog.replace(*told(), wanted_shards=0)
            await asyncio.sleep(AWAY_SECONDS if failing else POLL_SECONDS)

    def close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self.store.close()

    async def _commit(self, tickets: Sequence[Ticket[Write, Written]]) -> None:
        start = time.monotonic()
        outcomes = await self._in(self._writer, partial(self.store.write, [ticket.item for ticket in tickets]))
        metrics.COMMIT_SECONDS.observe(time.monotonic() - start)
        if any(isinstance(outcome, Written) and outcome.catalog_changed for outcome in outcomes):
            try:
                await self.load_catalog()
            except Unavailable as error:  # what was committed is written all the same
                log.warning("the catalog could not be read again", why=str(error))
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if isinstance(outcome, NotFound | Unavailable):
                ticket.fail(outcome)
            else:
                ticket.answer(outcome)
        metrics.ROWS_WRITTEN.inc(sum(ticket.size for ticket in tickets))
        self.news.tell()

    async def _in(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
