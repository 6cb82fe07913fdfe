"""The callers: one process of their own, so that what they cost is what a user's process would pay, and no more."""

import asyncio
import signal
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

import grpc
import numpy as np

from vitrail.cli.bench import BenchFailed
from vitrail.cli.bench.calls import Answers, Asked, Calls
from vitrail.cli.bench.loops import Log, Times, arrivals, closed, opened
from vitrail.rpc.channel import CLIENT_OPTIONS

CONNECT_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """A closed loop of so many callers, or an open loop where there is a rate.

    Attributes:
        callers: How many ask at the same time.
        seconds: For so long.
        whole: Ask every query at least once, however long it takes.
        rate: Calls a second of an open loop.
    """

    callers: int = 1
    seconds: float = 0.0
    whole: bool = False
    rate: float | None = None


@dataclass(frozen=True)
class Answered:
    """What came of a load.

    Attributes:
        answers: What was found.
        log: When, and how fast.
        cpu_seconds: User and system time of the callers' process.
        began: The wall clock at the start, for comparison with what happened elsewhere.
    """

    answers: Answers
    log: Log
    cpu_seconds: float
    began: float

    @property
    def per_second(self) -> float:
        return self.answers.queries / self.log.seconds if self.log.seconds else 0.0

    @property
    def failed(self) -> int:
        return sum(self.answers.errors.values())

    def during(self, begin: float, end: float) -> Times:
        """Latencies of the calls that were made between two moments of the wall clock."""
        starts = self.log.starts + self.began
        within: Times = self.log.latencies[(starts >= begin) & (starts <= end)]
        return within


class Callers:
    """The process that asks. What it is told to ask it asks until it is done, or is told to stop."""

    def __init__(self, address: str) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._stop = context.Event()
        self._process = context.Process(target=_serve, args=(address, theirs, self._stop), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def ask(self, asked: Asked, load: Load) -> Answered:
        """Ask, and wait until it is done.

        Raises:
            BenchFailed: The server is not reached, or the process ended.
        """
        self.begin(asked, load)
        return self.end()

    def begin(self, asked: Asked, load: Load) -> None:
        """Begin to ask; returns at once."""
        self._stop.clear()
        self._pipe.send((asked, load))

    def stop(self) -> None:
        """Make no further calls."""
        self._stop.set()

    def end(self) -> Answered:
        """Wait for what was begun; raises as `ask`."""
        while not self._pipe.poll(1.0):
            if not self._process.is_alive():
                raise BenchFailed("the process that asks has ended")
        found = self._pipe.recv()
        if isinstance(found, Answered):
            return found
        raise BenchFailed(found)


def _serve(address: str, pipe: Connection, stop: Event) -> None:
    """Do what comes through the pipe. Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            asked, load = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(asyncio.run(_ask(address, asked, load, stop)))
        except TimeoutError:
            pipe.send(f"{address} does not answer")
        except Exception as error:
            pipe.send(f"the process that asks: {error!r}")


async def _ask(address: str, asked: Asked, load: Load, stop: Event) -> Answered:
    async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            await channel.channel_ready()
        calls = Calls(channel, asked)
        due = np.empty(0) if load.rate is None else arrivals(load.rate, load.seconds)
        began, cpu = time.time(), time.process_time()
        if load.rate is None:
            at_least = asked.calls if load.whole else 0
            log = await closed(calls, load.callers, load.seconds, at_least, stop.is_set)
        else:
            log = await opened(calls, due, stop.is_set)
        return Answered(calls.answers, log, time.process_time() - cpu, began)
