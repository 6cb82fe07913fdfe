import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.client.fakes import Fake, serving

from vitrail.client import AsyncClient, Client


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as fake:
        yield fake


class Awaited:
    """The methods of `Client`, awaitable, so that one test serves both clients."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        async def method(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *args, **kwargs)

        return method

    async def list(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for record in self._client.list(*args, **kwargs):
            yield record


@pytest.fixture(params=["Client", "AsyncClient"])
async def client(request: pytest.FixtureRequest, fake: Fake) -> AsyncIterator[Any]:
    """Each of the two clients, connected to the fake coordinator."""
    if request.param == "Client":
        with Client(fake.address, timeout=20.0) as client:
            yield Awaited(client)
    else:
        async with AsyncClient(fake.address, timeout=20.0) as client:
            yield client
