"""Two ways to put load on a server.

In a closed loop each caller asks again as soon as it is answered: it measures throughput, and the latency that comes
with it. In an open loop calls come when they come, whether the server keeps up or not, and latency counts from the
moment at which a call was to be made: a server that stalls is charged for everybody who waited meanwhile (Tene,
"How not to measure latency").
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Call = Callable[[int], Awaitable[bool]]
"""Makes the call of a number; tells whether it was answered."""
Times = NDArray[np.float64]

REFUSED_SECONDS = 0.01
"""How long a caller waits that was refused."""


@dataclass(frozen=True)
class Log:
    """Calls that were answered: seconds from the start of the loop, and how long each took.

    Attributes:
        starts: When each was made, or was to be made.
        latencies: Seconds of each.
        seconds: From the start until the last answer.
        failed: Calls that were not answered.
        late: Seconds by which this program itself was late in making each call of an open loop.
    """

    starts: Times
    latencies: Times
    seconds: float
    failed: int
    late: Times


async def closed(
    call: Call, callers: int, seconds: float, at_least: int = 0, stopped: Callable[[], bool] = lambda: False
) -> Log:
    """So many callers for so many seconds, and until so many calls were made."""
    numbers = itertools.count()
    made: list[tuple[float, float]] = []
    failed = 0
    start = time.perf_counter()

    async def ask() -> None:
        nonlocal failed
        while (time.perf_counter() - start < seconds or len(made) + failed < at_least) and not stopped():
            began = time.perf_counter()
            if await call(next(numbers)):
                made.append((began - start, time.perf_counter() - began))
            else:
                failed += 1
                await asyncio.sleep(REFUSED_SECONDS)

    await asyncio.gather(*(ask() for _ in range(callers)))
    return _log(made, time.perf_counter() - start, failed, [])


async def opened(call: Call, due: Times, stopped: Callable[[], bool] = lambda: False) -> Log:
    """One call at each of these seconds from the start, whatever became of those before, until told to stop."""
    made: list[tuple[float, float]] = []
    late: list[float] = []
    failed = 0
    start = time.perf_counter()

    async def ask(number: int, wanted: float) -> None:
        nonlocal failed
        late.append(time.perf_counter() - start - wanted)
        if await call(number):
            made.append((wanted, time.perf_counter() - start - wanted))
        else:
            failed += 1

    async with asyncio.TaskGroup() as tasks:
        for number, wanted in enumerate(due.tolist()):
            ahead = wanted - (time.perf_counter() - start)
            if ahead > 0:
                await asyncio.sleep(ahead)
            if stopped():
                break
            tasks.create_task(ask(number, wanted))
    return _log(made, time.perf_counter() - start, failed, late)


def arrivals(rate: float, seconds: float, seed: int = 0) -> Times:
    """When calls come that nobody coordinates, at so many a second: a Poisson process, the same each time."""
    random = np.random.default_rng(seed)
    expected = rate * seconds
    gaps = random.exponential(1 / rate, int(expected + 10 * expected**0.5 + 10))
    times = np.cumsum(gaps)
    due: Times = times[times < seconds]
    return due


def percentiles(latencies: Times) -> tuple[float, float, float] | None:
    """The 50th, 95th and 99th percentile, in milliseconds; None where there are none."""
    if not len(latencies):
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(latencies * 1000, (50, 95, 99)))
    return p50, p95, p99


def _log(made: list[tuple[float, float]], seconds: float, failed: int, late: list[float]) -> Log:
    starts, latencies = np.array(made, np.float64).reshape(-1, 2).T
    return Log(starts, latencies, seconds, failed, np.array(late, np.float64))
