"""Searches through gRPC against FAISS in process, on the same vectors, with the same kind of index."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from numpy.typing import NDArray

from tests.e2e.running import Running, wait_applied, wait_trained
from vitrail.client import Client
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.shard.index import Flat, Trained, choose_recipe, training_rows, use_one_thread
from vitrail.v1.search_pb2 import BatchSearchRequest, BatchSearchResponse, Query, SearchRequest, SearchResponse
from vitrail.v1.search_pb2_grpc import SearchServiceStub
from vitrail.v1.types_pb2 import Vector, VectorArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
K = 10
BATCH = 100
SECONDS = 5.0
NAME = "bench"


@dataclass(frozen=True)
class Rate:
    """What was asked, how fast it was answered, and how much of the truth was found."""

    what: str
    per_second: float
    recall: float
    milliseconds: tuple[float, float, float] | None = None
    """The 50th, 95th and 99th percentile of a call."""


def truth(base: Floats, queries: Floats) -> Rows:
    """The K best rows for each query, compared in float32: int64 [q, K]."""
    best = [np.argsort(-(base @ query))[:K] for query in queries]
    return np.stack(best)


def recall(found: list[list[int]], true: Rows) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, true.tolist(), strict=True)]))


def faiss_alone(base: Floats, queries: Floats, true: Rows) -> tuple[list[Rate], float]:
    """One thread, one index over all vectors: single queries and batches; and rows added a second."""
    use_one_thread()
    kept = base.astype(np.float16)
    recipe = choose_recipe(len(base), base.shape[1])
    wanted = min(len(base), training_rows(recipe))
    sample = np.random.default_rng(0).choice(len(base), wanted, replace=False)
    index = Trained.train(base[sample], recipe, "cosine")
    start = time.perf_counter()
    index.add(base, np.arange(len(base)))
    added = len(base) / (time.perf_counter() - start)
    flat, live = Flat(kept, "cosine"), np.full((len(base) + 7) // 8, 255, np.uint8)

    def search(asked: Floats) -> Rows:
        return index.search(asked, K, live, flat, recipe.nprobe, recipe.rerank_factor)[1]

    singles = [search(queries[place : place + 1])[0].tolist() for place in range(len(queries))]
    single = _timed(lambda place: search(queries[place : place + 1]), len(queries), 1)
    blocks = len(queries) // BATCH
    batch = _timed(lambda place: search(queries[place * BATCH : (place + 1) * BATCH]), blocks, BATCH)
    found = recall(singles, true)
    return [
        Rate("FAISS in process, one thread, single queries", single, found),
        Rate(f"FAISS in process, one thread, batches of {BATCH}", batch, found),
    ], added


def through_grpc(running: Running, queries: Floats, true: Rows, callers: tuple[int, ...]) -> list[Rate]:
    """One query a call at several numbers of callers, then batches; the callers share these cores."""
    requests = [_search(query) for query in queries]
    rates = []
    for count in callers:
        found, seconds, times = asyncio.run(_closed_loop(running.address, requests, count))
        rates.append(_rate(f"gRPC, {count} callers", found, seconds, times, true, 1))
    blocks = [_batch(queries[start : start + BATCH]) for start in range(0, len(queries), BATCH)]
    found, seconds, times = asyncio.run(_closed_loop(running.address, blocks, 2))
    rates.append(_rate(f"gRPC, batches of {BATCH}, 2 callers", found, seconds, times, true, BATCH))
    return rates


@dataclass(frozen=True)
class Memory:
    """Anonymous memory of the shards, in bytes: when empty, with all records, and for each record."""

    empty: int
    full: int
    records: int

    @property
    def per_record(self) -> float:
        return (self.full - self.empty) / self.records


def loaded(data: Path, base: Floats) -> tuple[Running, Memory, float]:
    """A cluster of two shards with all vectors, trained and at rest; and rows upserted a second."""
    running = Running(data, "--shards", "2", "--port", "0", "--metrics-port", "0")
    with Client(running.address, timeout=600) as client:
        client.create_collection(NAME, dimension=base.shape[1], train_at=min(10_000, len(base) // 4))
        empty = _anonymous(running)
        start = time.perf_counter()
        client.upsert(NAME, ids=[str(row) for row in range(len(base))], vectors=base)
        rate = len(base) / (time.perf_counter() - start)
        wait_applied(client, NAME)
        wait_trained(client, NAME)
    return running, Memory(empty, _anonymous(running), len(base)), rate


def cpu_seconds(running: Running) -> dict[str, float]:
    """User and system time of each process so far."""
    return {name: sum(process.cpu_times()[:2]) for name, process in running.children().items()}


def _timed(work: Callable[[int], object], count: int, size: int) -> float:
    """Items a second over about SECONDS, going round."""
    work(0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        work(done % count)
        done += 1
    return done * size / (time.perf_counter() - start)


async def _closed_loop(
    address: str, requests: list[SearchRequest] | list[BatchSearchRequest], callers: int
) -> tuple[dict[int, list[list[int]]], float, list[float]]:
    """Callers that each ask again as soon as they are answered: what was found, seconds, and seconds a call."""
    found: dict[int, list[list[int]]] = {}
    times: list[float] = []
    async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        stub: Any = SearchServiceStub(channel)
        batched = isinstance(requests[0], BatchSearchRequest)
        call: Callable[[Any], Awaitable[SearchResponse | BatchSearchResponse]]
        call = stub.BatchSearch if batched else stub.Search
        await call(requests[0])
        end = time.perf_counter() + SECONDS

        async def ask(first: int) -> None:
            place = first
            while time.perf_counter() < end or place < len(requests):
                start = time.perf_counter()
                response = await call(requests[place % len(requests)])
                times.append(time.perf_counter() - start)
                if place < len(requests):
                    found[place] = _rows(response)
                place += callers

        start = time.perf_counter()
        await asyncio.gather(*(ask(caller) for caller in range(callers)))
        return found, time.perf_counter() - start, times


def _rows(response: SearchResponse | BatchSearchResponse) -> list[list[int]]:
    answers = [response] if isinstance(response, SearchResponse) else [each.response for each in response.results]
    return [[int(hit.id) for hit in answer.hits] for answer in answers]


def _rate(
    what: str, found: dict[int, list[list[int]]], seconds: float, times: list[float], true: Rows, size: int
) -> Rate:
    rows = [row for place in sorted(found) for row in found[place]]
    p50, p95, p99 = (float(value) for value in np.percentile(np.array(times) * 1000, (50, 95, 99)))
    return Rate(what, len(times) * size / seconds, recall(rows, true), (p50, p95, p99))


def _search(query: Floats) -> SearchRequest:
    return SearchRequest(collection=NAME, query=Query(vector=Vector(data=query.tobytes())), top_k=K)


def _batch(queries: Floats) -> BatchSearchRequest:
    packed = VectorArray(data=queries.tobytes(), dimension=queries.shape[1])
    return BatchSearchRequest(collection=NAME, vectors=packed, top_k=K)


def _anonymous(running: Running) -> int:
    """Memory of the shards that is no file's: what a mapped file takes in the page cache can be taken back."""
    shards = [process for name, process in running.children().items() if name.startswith("shard")]
    return sum(_rss_anonymous(process) for process in shards)


def _rss_anonymous(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise LookupError("this kernel does not tell RssAnon")
