"""The catalog in memory: collections by name, as the store had them last; and word to whoever waits for news."""

import asyncio
from collections.abc import Iterable

from vitrail.rpc.errors import NotFound
from vitrail.v1.collection_pb2 import Collection


class Catalog:
    """Collections by name, and each version as "name@2". A snapshot: writes check again inside their transaction."""

    def __init__(self) -> None:
        self.seq = 0
        self.wanted_shards = 0
        """How many shards are to serve; 0 where nobody said."""
        self._all: list[Collection] = []
        self._by_name: dict[str, Collection] = {}

    def replace(self, seq: int, collections: Iterable[Collection], wanted_shards: int) -> None:
        self.seq = seq
        self.wanted_shards = wanted_shards
        self._all = sorted(collections, key=lambda collection: (collection.name, collection.version))
        self._by_name = {f"{each.name}@{each.version}": each for each in self._all}
        self._by_name |= {each.name: each for each in self._all if each.serves}

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """A collection by its name, or a version by "name@2".

        Raises:
            NotFound: There is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFound(f"there is no collection {name!r}", field=field) from None

    def all(self) -> list[Collection]:
        """All versions of all collections, by name and version."""
        return self._all

    def serving(self) -> list[Collection]:
        """Of each collection the version that serves, by name."""
        return [collection for collection in self._all if collection.serves]

    def versions(self, collection: Collection) -> list[Collection]:
        """All versions of a collection, itself included."""
        return [each for each in self._all if each.name == collection.name]


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
