"""The catalog in memory: collections by name, as the store had them last; and word to whoever waits for news."""

import asyncio
from collections.abc import Iterable

from vitrail.rpc.errors import NotFound
from vitrail.v1.collection_pb2 import Collection


class Catalog:
    """Collections by name. A snapshot: writes check again inside their transaction."""

    def __init__(self) -> None:
        self.seq = 0
        self.wanted_shards = 0
        """How many shards are to serve; 0 where nobody said."""
        self._by_name: dict[str, Collection] = {}

    def replace(self, seq: int, collections: Iterable[Collection], wanted_shards: int) -> None:
        self.seq = seq
        self.wanted_shards = wanted_shards
        self._by_name = {collection.name: collection for collection in collections}

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """A collection by its name.

        Raises:
            NotFound: There is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFound(f"there is no collection {name!r}", field=field) from None

    def all(self) -> list[Collection]:
        """By name."""
        return sorted(self._by_name.values(), key=lambda collection: collection.name)


class News:
    """Wakes whoever waits for something to have changed in the store."""

    def __init__(self) -> None:
        self.ended = False
        self._next = asyncio.Event()

    def tell(self) -> None:
        event, self._next = self._next, asyncio.Event()
        event.set()

    def end(self) -> None:
        """Wake everyone for the last time."""
        self.ended = True
        self.tell()

    def listen(self) -> asyncio.Event:
        """An event that the next news sets. Take it before looking, wait for it after: nothing is missed."""
        return self._next
