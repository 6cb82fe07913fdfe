"""The record log, served to shards: passes over each collection, a checkpoint when one is complete, for ever."""

from collections.abc import AsyncIterator, Mapping, Set

from vitrail.rpc.errors import InvalidArgument, Unavailable
from vitrail.rpc.server import Context
from vitrail.rpc.slots import SLOTS
from vitrail.server import metrics
from vitrail.server.journal import Journal
from vitrail.server.store import Page
from vitrail.v1.log_pb2 import Catalog, Cursor, FollowRequest, FollowResponse, Reset
from vitrail.v1.log_pb2_grpc import LogServiceServicer

# Of a message of a megabyte or more, malloc takes every buffer from the system anew (`give_memory_back`).
PAGE_BYTES = 1 << 19
MAX_PAGE_ROWS = 2048


class LogService(LogServiceServicer):
    """Serves the log from the store."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def Follow(self, request: FollowRequest, context: Context) -> AsyncIterator[FollowResponse]:  # noqa: N802
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
        for uid in await self._lost(places):
            places.pop(uid)
            yield FollowResponse(reset=Reset(collection_uid=uid))
        catalog_seq, told = -1, set[int]()
        while not self._journal.news.ended:
            news = self._journal.news.listen()
            catalog = self._journal.catalog
            collections = catalog.all()
            if catalog.seq != catalog_seq:
                catalog_seq = catalog.seq
                yield FollowResponse(catalog=Catalog(seq=catalog_seq, collections=collections))
            heads = await self._journal.read(self._journal.store.heads)
            for collection in collections:
                if collection.uid in without:
                    continue
                place = places.get(collection.uid)
                # Once where there is nothing new, too: a follower cannot know otherwise that it has caught up.
                if (
                    place is None
                    or collection.uid not in told
                    or place.seq != heads.collections.get(collection.uid, (0, 0))[1]
                ):
                    told.add(collection.uid)
                    async for event in self._pass(collection.uid, collection.dimension, slots, places):
                        yield event
            await news.wait()

    async def _pass(
        self, uid: int, dimension: int, slots: tuple[int, int], places: dict[int, Cursor]
    ) -> AsyncIterator[FollowResponse]:
        """Send rows page by page; the page that comes back short completes a snapshot, which the checkpoint names."""
        limit = min(MAX_PAGE_ROWS, max(1, PAGE_BYTES // (4 * dimension)))
        after = places[uid].seq if uid in places else 0
        while True:
            page = await self._journal.read(self._journal.store.page, uid, slots, after, limit)
            if page is None:
                return
            if page.rows:
                after = page.rows[-1].seq
                yield _rows(page)
            if len(page.rows) < limit:
                places[uid] = page.head
                yield FollowResponse(checkpoint=page.head)
                return

    async def _lost(self, places: Mapping[int, Cursor]) -> list[int]:
        """The collections of cursors that the store does not know."""
        store = self._journal.store
        return [uid for uid, cursor in places.items() if not await self._journal.read(store.knows, cursor)]


def _rows(page: Page) -> FollowResponse:
    """The message of a page."""
    event = FollowResponse()  # filled in place: put together of other messages it took 11 us a row of 5 KiB, not 1
    event.rows.collection_uid, event.rows.head = page.head.collection_uid, page.head.seq
    for row in page.rows:
        event.rows.rows.add(
            id=row.id, seq=row.seq, slot=row.slot, deleted=row.deleted, vector=row.vector, attributes=row.attributes
        )
    return event
