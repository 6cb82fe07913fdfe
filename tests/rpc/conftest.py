from collections.abc import AsyncIterator

import grpc
import pytest

from tests.rpc.fakes import Echo, serving
from vitrail.rpc.server import Server


@pytest.fixture
async def served() -> AsyncIterator[tuple[Echo, Server]]:
    async with serving() as served:
        yield served


@pytest.fixture
def echo(served: tuple[Echo, Server]) -> Echo:
    return served[0]


@pytest.fixture
def server(served: tuple[Echo, Server]) -> Server:
    return served[1]


@pytest.fixture
async def channel(echo: Echo) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(echo.address) as channel:
        yield channel
