"""Who searches all the while, through the SDK and from processes of their own, and what came of each search."""

import asyncio
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tests.e2e.photos import jpeg, tiles
from vitrail.cli.bench.loops import arrivals, closed, opened
from vitrail.client import AsyncClient, Client, Record, VitrailError

NAME = "c"
RECORDS, DIMENSION, BLOCK, TRAIN_AT = 20_000, 128, 1000, 4000
PROCESSES = 4
"""Each has a connection of its own, which is to one of the coordinators."""
AT_A_TIME = 4
"""Callers of a process that ask as fast as they can."""
LONGEST = 1200.0


def vectors(count: int, seed: int) -> NDArray[np.float32]:
    """Float32 [count, 128], near a surface of fewer dimensions, as embeddings are."""
    surface = np.random.default_rng(0).normal(size=(24, DIMENSION))
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, 24)) @ surface + 0.5 * random.normal(size=(count, DIMENSION))
    return found.astype(np.float32)


def fill(client: Client, records: int = RECORDS) -> None:
    """Make the collection that is searched."""
    client.create_collection(NAME, dimension=DIMENSION, train_at=TRAIN_AT, exist_ok=True)
    base = vectors(records, seed=1)
    for first in range(0, records, BLOCK):
        ids = [str(row) for row in range(first, min(first + BLOCK, records))]
        attributes = [{"price": row % 100, "kind": "hat" if row % 3 else "shoe"} for row in map(int, ids)]
        assert not client.upsert(NAME, ids=ids, vectors=base[first : first + BLOCK], attributes=attributes).errors


def call_all(client: Client, seconds: float) -> None:
    """Calls of every kind, one after another: photos in, photos and filters asked, records written and deleted."""
    client.create_collection("photos", exist_ok=True)
    photos, rows = [jpeg(tile) for _, tile in islice(tiles(), 20)], vectors(20, seed=3)
    until = time.monotonic() + seconds
    for number in count():
        if time.monotonic() > until:
            return
        photo, row = photos[number % 20], rows[number % 20]
        client.upsert("photos", [Record(str(number), photo)])
        client.search("photos", image=photo)
        client.search(NAME, vector=row, filter="kind = 'hat' AND price < 80")
        client.upsert(NAME, ids=[f"new-{number}"], vectors=row[None])
        client.delete(NAME, ids=[f"new-{number - 10}"])


@dataclass(frozen=True)
class Answers:
    """What came of searches.

    Attributes:
        rows: Float64 [n, 4], of each search: when it was due by the wall clock, how many seconds it took since, what it
            covered, and how many shards the layout has that answered. Where it failed it covered not a number.
        reasons: Why some failed.
    """

    rows: NDArray[np.float64]
    reasons: Counter[str]

    @property
    def at(self) -> NDArray[np.float64]:
        return self.rows[:, 0]

    @property
    def seconds(self) -> NDArray[np.float64]:
        return self.rows[:, 1]

    @property
    def coverage(self) -> NDArray[np.float64]:
        return self.rows[:, 2]

    @property
    def layout(self) -> NDArray[np.float64]:
        return self.rows[:, 3]

    @property
    def failed(self) -> NDArray[np.bool_]:
        return np.isnan(self.coverage)

    def during(self, begin: float, end: float) -> "Answers":
        """Those that were due between two moments of the wall clock."""
        return Answers(self.rows[(self.at >= begin) & (self.at < end)], self.reasons)


class Callers:
    """Searches the collection from some processes at the same time."""

    def __init__(self, address: str, processes: int = PROCESSES) -> None:
        context = get_context("spawn")
        self._stop = context.Event()
        pipes = [context.Pipe() for _ in range(processes)]
        self._pipes = [mine for mine, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(address, number, theirs, self._stop), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()

    def peak(self, seconds: float) -> float:
        """How many searches a second are answered at most."""
        self.begin(None)
        time.sleep(seconds)
        answers = self.end()
        assert not answers.failed.any(), answers.reasons
        middle = answers.during(answers.at[0] + seconds / 4, answers.at[0] + seconds)  # all have connected by then
        return len(middle.at) / (0.75 * seconds)

    def begin(self, rate: float | None) -> None:
        """Search so often a second, all together, when they come; or as fast as they can."""
        self._stop.clear()
        for pipe in self._pipes:
            pipe.send(None if rate is None else rate / len(self._pipes))

    def end(self) -> Answers:
        """Search no more; returns what came of it, by the time when each was due."""
        self._stop.set()
        parts: list[Answers] = [pipe.recv() for pipe in self._pipes]
        rows = np.concatenate([part.rows for part in parts])
        return Answers(rows[np.argsort(rows[:, 0], kind="stable")], sum((part.reasons for part in parts), Counter()))


class _Caller:
    """Searches, and keeps what came of each."""

    def __init__(self, client: AsyncClient, queries: NDArray[np.float32]) -> None:
        self._client, self._queries = client, queries
        self._rows: list[tuple[float, float, float, int]] = []
        self._reasons: Counter[str] = Counter()

    async def search(self, number: int, due: float) -> bool:
        try:
            found = await self._client.search(NAME, vector=self._queries[number % len(self._queries)])
        except VitrailError as error:
            self._reasons[repr(error)] += 1
            self._rows.append((due, time.time() - due, np.nan, 0))
            return False
        self._rows.append((due, time.time() - due, found.coverage.fraction, found.coverage.shards_total))
        return True

    def answers(self) -> Answers:
        return Answers(np.array(self._rows, np.float64).reshape(-1, 4), self._reasons)


def _serve(address: str, number: int, pipe: Connection, stop: Event) -> None:
    """Do what comes through the pipe. Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError):
        while True:
            pipe.send(asyncio.run(_ask(address, number, pipe.recv(), stop)))


async def _ask(address: str, number: int, rate: float | None, stop: Event) -> Answers:
    async with AsyncClient(address) as client:
        caller = _Caller(client, vectors(1000, seed=100 + number))
        began = time.time()
        if rate is None:
            await closed(lambda call: caller.search(call, time.time()), AT_A_TIME, LONGEST, stopped=stop.is_set)
        else:
            due = arrivals(rate, LONGEST, seed=number)
            await opened(lambda call: caller.search(call, began + due[call]), due, stop.is_set)
        return caller.answers()
