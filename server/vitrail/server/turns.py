"""A few places, taken in turn: who asks for one answer goes before bulk work."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many places at a time."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._interactive: deque[asyncio.Future[None]] = deque()
        self._bulk: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def taken(self, *, bulk: bool) -> AsyncIterator[None]:
        """Wait for a place, and hold it for a while."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(self._bulk if bulk else self._interactive)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given one in the moment in which it left
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        for queue in (self._interactive, self._bulk):
            while queue:
                place = queue.popleft()
                if not place.done():
                    place.set_result(None)
                    return
        self._free += 1
