"""What more shards cost one caller: the same vectors on 1 shard and on 4, asked in turns.

`python -m tests.bench.layouts`.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.bench.photos import made
from tests.e2e.running import Running
from vitrail.cli.bench.callers import Callers, Load
from vitrail.cli.bench.calls import Asked
from vitrail.cli.bench.ingest import wait_at_rest
from vitrail.cli.bench.loops import percentiles
from vitrail.cli.bench.machine import described
from vitrail.client import Client

NAME, BLOCK = "c", 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--shards", default="1,4", help="with commas; the first is what the others are compared with")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    given = parser.parse_args()
    layouts = [int(count) for count in given.shards.split(",")]
    base, queries = made(given.cache, None, given.vectors, 2000)
    with TemporaryDirectory(dir=given.cache) as directory, ExitStack() as stack:
        callers = []
        for count in layouts:
            data = Path(directory) / str(count)
            running = Running(data, "--shards", str(count), "--port", "0", "--metrics-port", "0")
            stack.callback(running.stop)
            fill(running.address, base)
            callers.append(stack.enter_context(Callers(running.address)))
        asked = Asked(NAME, queries)
        turns = [[p50_and_p99(each, asked, given.seconds) for each in callers] for _ in range(given.turns)]
    medians = np.median(turns, axis=0)
    title = f"{len(base):,} vectors, {base.shape[1]:,} dimensions, one caller; {described()}"
    table = Table(
        "shards",
        f"p50 ms, median of {given.turns}",
        "p99 ms",
        "p50 against the first",
        title=title,
        title_justify="left",
    )
    for count, (p50, p99) in zip(layouts, medians, strict=True):
        table.add_row(str(count), f"{p50:.2f}", f"{p99:.2f}", f"× {p50 / medians[0][0]:.2f}")
    Console(width=120).print(table)


def fill(address: str, base: NDArray[np.float16]) -> None:
    """Write all vectors, and wait until nothing is left to be done."""
    with Client(address, timeout=600) as client:
        client.create_collection(NAME, dimension=base.shape[1])
        for first in range(0, len(base), BLOCK):
            rows = np.asarray(base[first : first + BLOCK], np.float32)
            client.upsert(NAME, ids=[str(first + row) for row in range(len(rows))], vectors=rows)
        wait_at_rest(client, NAME)


def p50_and_p99(callers: Callers, asked: Asked, seconds: float) -> tuple[float, float]:
    """In milliseconds, of one caller."""
    p50, _, p99 = percentiles(callers.ask(asked, Load(1, seconds)).log.latencies) or (np.nan,) * 3
    return p50, p99


if __name__ == "__main__":
    main()
