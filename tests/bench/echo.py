"""What one call costs a server, whatever it does: 5 KB come in, ten hits go out.

    python -m tests.bench.echo

Every kind of server runs in a process of its own, and they are asked in turns. Seconds of CPU are compared, the least
of several rounds: on a busy machine rates say little.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import grpc
import numpy as np
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench import frames
from vitrail.rpc.server import Server
from vitrail.v1.search_pb2 import Coverage, Hit, IndexInfo, Query, SearchRequest, SearchResponse, Timings
from vitrail.v1.types_pb2 import Vector

SERVICE = "vitrail.bench.Echo"
CALLERS = (1, 16, 64)
ROUNDS = 5
SECONDS = 1.0
VECTOR = np.ones(1280, np.float32).tobytes()
REQUEST = SearchRequest(collection="bench", query=Query(vector=Vector(data=VECTOR)), top_k=10).SerializeToString()


def answer(_: object = None) -> SearchResponse:
    """A response as a search with two shards gives it."""
    return SearchResponse(
        hits=[Hit(id=str(4567 * place), score=0.5) for place in range(10)],
        coverage=Coverage(
            shards_searched=2, shards_total=2, records_searched=50_000, records_total=50_000, fraction=1.0
        ),
        index=IndexInfo(trained=True, nprobe=26, version="0123abcd+4567cdef", seq=50_000),
        timings=Timings(search_wait=0.1, fanout=0.1, shard=0.1, merge=0.1, total=0.2),
    )


ANSWER = answer().SerializeToString()


def handlers(handle: Callable[[Any, Any], Any], *, messages: bool) -> Any:
    """One method, of messages or of bytes that are passed through."""
    read, write = (SearchRequest.FromString, SearchResponse.SerializeToString) if messages else (None, None)
    method = grpc.unary_unary_rpc_method_handler(handle, read, write)
    return grpc.method_handlers_generic_handler(SERVICE, {"Echo": method})


async def asynchronous(*, messages: bool) -> None:
    """grpc.aio, with nothing around it."""

    async def echo(request: Any, context: object) -> Any:
        return answer(request) if messages else ANSWER

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(echo, messages=messages),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def ours() -> None:
    """The server of every process of ours: with metrics, and errors turned into status codes."""

    async def echo(request: Any, context: object) -> Any:
        return answer(request)

    server = Server("127.0.0.1", 0)
    server.add(lambda _, entrance: entrance.add_generic_rpc_handlers((handlers(echo, messages=True),)), None, SERVICE)
    server._names.remove(SERVICE)  # reflection cannot describe it
    print(await server.start(), flush=True)
    await asyncio.Event().wait()


def threaded(*, messages: bool, waiting: bool = False) -> None:
    """grpc's server of threads; `waiting` has each call wait until another thread has answered it, as for a batch."""
    asked: SimpleQueue[tuple[Any, Future[Any]]] = SimpleQueue()

    def echo(request: Any, context: object) -> Any:
        if not waiting:
            return answer(request) if messages else ANSWER
        future: Future[Any] = Future()
        asked.put((request, future))
        return future.result()

    def own() -> None:
        while True:
            request, future = asked.get()
            future.set_result(answer(request) if messages else ANSWER)

    Thread(target=own, daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(80 if waiting else 4))
    server.add_generic_rpc_handlers((handlers(echo, messages=messages),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


async def by_hand() -> None:
    """HTTP/2 frames read and written in Python: no server, but what one could cost at least."""

    async def echo(request: bytes) -> bytes:
        return answer(SearchRequest.FromString(request)).SerializeToString()

    await frames.serve(echo, lambda port: print(port, flush=True))


KINDS: dict[str, Callable[[], object]] = {
    "grpc.aio, asyncio's loop, bytes": lambda: asyncio.run(asynchronous(messages=False)),
    "grpc.aio, uvloop, bytes": lambda: uvloop.run(asynchronous(messages=False)),
    "grpc.aio, uvloop, messages": lambda: uvloop.run(asynchronous(messages=True)),
    "vitrail.rpc.server, uvloop, messages": lambda: uvloop.run(ours()),
    "threads, bytes": lambda: threaded(messages=False),
    "threads, messages": lambda: threaded(messages=True),
    "threads that wait for another, messages": lambda: threaded(messages=True, waiting=True),
    "frames by hand, uvloop, messages": lambda: uvloop.run(by_hand()),
}


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU a call, of the server and of its client, and calls a second."""

    server: float
    client: float
    rate: float


async def measure(port: int, process: psutil.Process, callers: int) -> Cost:
    """Ask from one connection, each caller again as soon as it is answered."""
    calls = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(f"/{SERVICE}/Echo"))
        assert SearchResponse.FromString(await call(REQUEST)) == answer()
        start, client, server = time.perf_counter(), time.process_time(), sum(process.cpu_times()[:2])

        async def ask() -> None:
            nonlocal calls
            while time.perf_counter() < start + SECONDS:
                await call(REQUEST)
                calls += 1

        await asyncio.gather(*(ask() for _ in range(callers)))
        seconds, client = time.perf_counter() - start, time.process_time() - client
        server = sum(process.cpu_times()[:2]) - server
    return Cost(1e6 * server / calls, 1e6 * client / calls, calls / seconds)


def main() -> None:
    if len(sys.argv) > 1:
        KINDS[sys.argv[1]]()
        return
    command = [sys.executable, "-m", "tests.bench.echo"]
    servers = {kind: subprocess.Popen([*command, kind], stdout=subprocess.PIPE, text=True) for kind in KINDS}
    try:
        ports = {kind: int(server.stdout.readline()) for kind, server in servers.items() if server.stdout}
        costs: dict[tuple[str, int], list[Cost]] = {}
        for callers in CALLERS:
            for _ in range(ROUNDS):
                for kind, port in ports.items():
                    process = psutil.Process(servers[kind].pid)
                    costs.setdefault((kind, callers), []).append(uvloop.run(measure(port, process, callers)))
    finally:
        for server in servers.values():
            server.kill()
            server.communicate()
    table = Table("CPU a call, µs: server, client", *(f"{callers} callers" for callers in CALLERS), "calls/s at 64")
    for kind in KINDS:
        rounds = [costs[kind, callers] for callers in CALLERS]
        cells = [f"{min(c.server for c in each):.0f}, {min(c.client for c in each):.0f}" for each in rounds]
        table.add_row(kind, *cells, f"{max(cost.rate for cost in rounds[-1]):,.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
