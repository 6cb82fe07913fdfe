"""A server that does not come to take calls, so that its gRPC refuses some of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from vitrail.client import Client, Collection, ResourceExhausted
from vitrail.v1.collection_pb2 import ListCollectionsResponse

LIMITS = [("grpc.server.max_pending_requests", 1), ("grpc.server.max_pending_requests_hard_limit", 1)]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server(options=LIMITS)
    methods: dict[str, Any] = {"ListCollections": grpc.unary_unary_rpc_method_handler(answer)}
    service = grpc.method_handlers_generic_handler("vitrail.v1.CollectionService", methods)
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def answer(request: bytes, context: Any) -> bytes:
    return ListCollectionsResponse().SerializeToString()


async def asked(address: str, retries: int) -> list[list[Collection] | BaseException]:
    """What ten callers hear who ask while the server's loop stands still for a second."""
    with ThreadPoolExecutor(10) as threads, Client(address, retries=retries) as client:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(threads, lambda: list(client.list_collections())) for _ in range(10)]
        time.sleep(1)  # noqa: ASYNC251 - which is the point
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_that_grpc_refuses_may_come_again(address: str) -> None:
    """The caller hears that there were too many, and when to try again."""
    refused = [each for each in await asked(address, retries=0) if isinstance(each, ResourceExhausted)]
    assert refused
    assert all(each.retry_after for each in refused)


async def test_calls_that_grpc_refuses_come_again(address: str) -> None:
    """By themselves, until they are answered."""
    assert await asked(address, retries=6) == [[]] * 10
