"""The record log, served to shards: passes over each collection, a checkpoint when one is complete, for ever.

A follower that was not told of a tombstone before it was purged may hold a record that is gone. So each page says, in
its own snapshot, up to where tombstones were purged, and whether it knows what the follower was told before; where that
is not enough, the follower is told to forget everything and is sent it again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Set

from vitrail.rpc.errors import InvalidArgument, Unavailable
from vitrail.rpc.protocol import check, this_program
from vitrail.rpc.server import Context
from vitrail.rpc.slots import SLOTS
from vitrail.server import metrics
from vitrail.server.journal import Journal
from vitrail.server.store import Heads, Page
from vitrail.v1.log_pb2 import Catalog, Cursor, FollowRequest, FollowResponse, Reset
from vitrail.v1.log_pb2_grpc import LogServiceServicer

# Of a message of a megabyte or more, a shard takes every buffer from the system anew (`give_memory_back`).
PAGE_BYTES = 1 << 19
MAX_PAGE_ROWS = 2048
# While callers search, one that builds leaves them the loop for so long a row, after each page; a row of 1,280
# dimensions takes 25 us of it. Without this their p99 was 1.8 s while new shards were built on two cores, not 0.2 s.
PATIENCE_SECONDS = 80e-6


class LogService(LogServiceServicer):
    """Serves the log from the store."""

    def __init__(self, journal: Journal, is_busy: Callable[[], bool] = lambda: False) -> None:
        """Serve the log of a journal; `is_busy` tells whether callers search now, who share this process's loop."""
        self._journal = journal
        self._is_busy = is_busy

    async def Follow(self, request: FollowRequest, context: Context) -> AsyncIterator[FollowResponse]:  # noqa: N802
        check(request.program, "the shard")
        slots = (request.slot_begin, request.slot_end)
        if not 0 <= slots[0] < slots[1] <= SLOTS:
            raise InvalidArgument(f"slots {slots[0]} to {slots[1]} are not within 0 to {SLOTS}", field="slot_end")
        if not self._journal.is_loaded:
            raise Unavailable("the store has not been there yet")  # what shards told would make them drop the rest
        places = {cursor.collection_uid: cursor for cursor in request.cursors}
        with metrics.FOLLOWERS.track_inprogress():
            async for event in self._follow(slots, places, frozenset(request.without)):
                yield event

    async def _follow(
        self, slots: tuple[int, int], places: dict[int, Cursor], without: Set[int]
    ) -> AsyncIterator[FollowResponse]:
        catalog_seq, told = -1, set[int]()
        while not self._journal.news.ended:
            news = self._journal.news.listen()
            catalog = self._journal.catalog
            collections = catalog.all()
            if catalog.seq != catalog_seq:
                catalog_seq = catalog.seq
                whole = Catalog(seq=catalog_seq, collections=collections, program=this_program())
                yield FollowResponse(catalog=whole)
            heads = await self._journal.read(self._journal.store.heads)
            for collection in collections:
                if collection.uid in without:
                    continue
                # Once where there is nothing new, too: a follower cannot know otherwise that it has caught up.
                if collection.uid not in told or _is_news(heads, places.get(collection.uid), collection.uid):
                    told.add(collection.uid)
                    async for event in self._pass(collection.uid, collection.dimension, slots, places):
                        yield event
            await news.wait()

    async def _pass(
        self, uid: int, dimension: int, slots: tuple[int, int], places: dict[int, Cursor]
    ) -> AsyncIterator[FollowResponse]:
        """Send rows page by page; the page that comes back short completes a snapshot, which the checkpoint names."""
        limit = min(MAX_PAGE_ROWS, max(1, PAGE_BYTES // (4 * dimension)))
        told = Told(places.get(uid))
        is_build = told.complete is None
        ahead = self._read(uid, slots, told, limit)
        try:
            while True:
                page = await ahead
                if page is None:
                    return
                if not told.suffices(page):
                    yield FollowResponse(reset=Reset(collection_uid=uid))
                    places.pop(uid, None)
                    told = Told(None)
                    ahead = self._read(uid, slots, told, limit)
                    continue
                told.take(page)
                is_last = len(page.rows) < limit
                if not is_last:
                    ahead = self._read(uid, slots, told, limit)  # while this one is on its way
                if page.rows:
                    yield _rows(page)
                    if is_build and not is_last and self._is_busy():
                        await asyncio.sleep(len(page.rows) * PATIENCE_SECONDS)
                if is_last:
                    places[uid] = page.head
                    yield FollowResponse(checkpoint=page.head)
                    return
        finally:
            ahead.cancel()

    def _read(self, uid: int, slots: tuple[int, int], told: "Told", limit: int) -> asyncio.Task[Page | None]:
        """Begin to read the page that comes next."""
        return asyncio.create_task(
            self._journal.read(self._journal.store.page, uid, slots, told.after, limit, told.place)
        )


class Told:
    """What a follower has been told of one collection, in a pass from where it was complete."""

    def __init__(self, complete: Cursor | None) -> None:
        """Begin a pass.

        Args:
            complete: Where it was; None where it holds nothing. One that is at 0 may hold something: what it was sent
                of a pass that broke off.
        """
        self.complete = complete
        self.place = complete
        """The head of the latest page: the next one must be of a history that has it."""
        self.after = complete.seq if complete else 0
        """The last row that it was sent."""
        self._gone = self.after
        """What was deleted up to here it does not hold."""

    def suffices(self, page: Page) -> bool:
        """Whether it can go on with a page, or may hold what this one can no longer say is gone."""
        if self.place is None:  # it holds nothing, and what is gone by now it will never be sent
            self._gone = page.head.seq
        return page.knows_place and page.purged <= max(self._gone, self.after)

    def take(self, page: Page) -> None:
        self.place = page.head
        if page.rows:
            self.after = page.rows[-1].seq


def _is_news(heads: Heads, place: Cursor | None, uid: int) -> bool:
    """Whether a collection's log no longer ends where a follower is."""
    here = heads.collections.get(uid, (0, 0))[1], heads.marks.get(uid, 0)
    return place is None or here != (place.seq, place.mark)


def _rows(page: Page) -> FollowResponse:
    """The message of a page."""
    event = FollowResponse()  # filled in place: put together of other messages it took 11 us a row of 5 KiB, not 1
    event.rows.collection_uid, event.rows.head = page.head.collection_uid, page.head.seq
    for row in page.rows:
        event.rows.rows.add(
            id=row.id, seq=row.seq, slot=row.slot, deleted=row.deleted, vector=row.vector, attributes=row.attributes
        )
    return event
