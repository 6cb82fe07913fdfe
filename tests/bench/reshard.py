"""Another number of shards takes over, and another one, under searches and upserts all the while.

Searches come when they come, at half of the rate that the first layout answers at most; all is on one machine, so the
new shards start one after another. Prints what searches saw before, while and after each change, and draws it:
`python -m tests.bench.reshard --picture docs/reshard.png`.
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.bench.photos import made
from tests.e2e.parts import Parts, wait_serving
from tests.e2e.searching import Searching
from vitrail.cli.bench.callers import Answered, Callers, Load
from vitrail.cli.bench.calls import Asked
from vitrail.cli.bench.loops import percentiles
from vitrail.cli.bench.machine import described
from vitrail.client import Client, VitrailError

NAME = "c"
BLOCK = 1000
PEAK_CALLERS, PEAK_SECONDS = 16, 10.0
UPSERT_ROWS, UPSERT_PAUSE = 10, 0.1
"""Records of one upsert meanwhile, and the seconds between two."""
SAMPLE_PAUSE = 0.05
"""Between searches that keep what each answer covered, and who answered."""
PATIENCE, ASK_PAUSE = 3600.0, 0.25
COLOURS = {2: "#0072B2", 3: "#D55E00", 4: "#009E73"}  # Okabe and Ito's, which everyone can tell apart


class Phase(NamedTuple):
    """A while, by the wall clock."""

    name: str
    begin: float
    end: float


class Writing(threading.Thread):
    """Somebody who writes records again, all the while."""

    def __init__(self, address: str, base: NDArray[np.float16]) -> None:
        super().__init__()
        self.calls = 0
        self.faults: list[str] = []
        self.ended = threading.Event()
        self._address, self._base = address, base

    def run(self) -> None:
        with Client(self._address, retries=0, timeout=30) as client:
            while not self.ended.wait(UPSERT_PAUSE):
                first = self.calls * UPSERT_ROWS % (len(self._base) - UPSERT_ROWS)
                self.calls += 1
                try:
                    self.faults += map(str, _upsert(client, self._base, first, UPSERT_ROWS))
                except VitrailError as error:
                    self.faults.append(repr(error))


class Seen(NamedTuple):
    """What was seen of all changes."""

    phases: list[Phase]
    answered: Answered
    searching: Searching
    writing: Writing
    peak: float
    rate: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--layouts", default="2,3,2", help="how many shards, one number after another")
    parser.add_argument("--share", type=float, default=0.5, help="of the peak")
    parser.add_argument("--lead", type=float, default=20.0, help="seconds before and after each change")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    parser.add_argument("--picture", type=Path, help="draw it into this .png")
    parser.add_argument("--report", type=Path, help="write the table into this .txt")
    given = parser.parse_args()
    layouts = [int(count) for count in given.layouts.split(",")]
    base, queries = made(given.cache, None, given.vectors, 2000)
    with TemporaryDirectory(dir=given.cache) as directory:
        seen = changed(Path(directory), base, queries, layouts, given.share, given.lead)
    title = (
        f"{' → '.join(map(str, layouts))} shards, {len(base):,} vectors, {base.shape[1]:,} dimensions, {described()}\n"
        f"{seen.rate:,.0f} searches/s that come when they come, of {seen.peak:,.0f} at most;"
        f" {seen.writing.calls:,} upserts of {UPSERT_ROWS} records, {len(seen.writing.faults)} failed"
    )
    with Console(record=True, width=120) as console:
        console.print(title, table(seen), sep="\n")
    if given.report:
        given.report.write_text(console.export_text())
    if given.picture:
        draw(seen, title, given.picture)


def changed(
    directory: Path,
    base: NDArray[np.float16],
    queries: NDArray[np.float32],
    layouts: Sequence[int],
    share: float,
    lead: float,
) -> Seen:
    """Fill the first layout, and have each of the others take over from the one before."""
    with (
        Parts(directory, str(directory / "store"), sorted(set(layouts))) as parts,
        Client(parts.address, timeout=600) as client,
        Callers(parts.address) as callers,
    ):
        parts.start_coordinator()
        parts.start_layout(layouts[0])
        client.create_collection(NAME, dimension=base.shape[1])
        for first in range(0, len(base), BLOCK):
            assert not _upsert(client, base, first, BLOCK)
        client.set_shards(layouts[0])
        wait_serving(client, layouts[0])
        _until(partial(_at_rest, client, layouts[0]))
        asked = Asked(NAME, queries)
        peak = callers.ask(asked, Load(PEAK_CALLERS, PEAK_SECONDS)).per_second
        writing, searching = Writing(parts.address, base), Searching(parts.address, NAME, queries, pause=SAMPLE_PAUSE)
        callers.begin(asked, Load(rate=share * peak, seconds=PATIENCE))
        writing.start()
        try:
            phases = _change(parts, client, layouts, lead)
        finally:
            callers.stop()
            writing.ended.set()
            searching.stop()
            writing.join()
        return Seen(phases, callers.end(), searching, writing, peak, share * peak)


def _change(parts: Parts, client: Client, layouts: Sequence[int], lead: float) -> list[Phase]:
    """One layout after another takes over; each change ends when the layout before is gone and the new one at rest."""
    phases = [_phase(f"{layouts[0]} shards", time.time(), lead)]
    for before, after in pairwise(layouts):
        began = time.time()
        client.set_shards(after)
        for place in parts.shards:
            if place.of == after:  # one after another: they share a machine with those that serve
                parts.start_shard(place)
                _until(partial(_is_ready, client, parts.shards[place].address))
        _until(partial(_serves, client, after))
        served = time.time()
        parts.end_layout(before)
        _until(partial(_at_rest, client, after))
        phases += [Phase(f"{before} → {after}: until {after} serve", began, served)]
        phases += [Phase(f"{before} → {after}: until {after} are at rest", served, time.time())]
        phases += [_phase(f"{after} shards", time.time(), lead)]
    return phases


def _phase(name: str, began: float, seconds: float) -> Phase:
    time.sleep(seconds)
    return Phase(name, began, time.time())


def _until(condition: Callable[[], bool]) -> None:
    """Wait, without asking so often that it shows."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"never: {condition}"
        time.sleep(ASK_PAUSE)


def _serves(client: Client, count: int) -> bool:
    return client.shards().serving == count


def _is_ready(client: Client, address: str) -> bool:
    return any(each.address == address and each.shards and not each.failure for each in client.shards().processes)


def _at_rest(client: Client, count: int) -> bool:
    stats = client.stats(NAME)
    mine = [each for each in stats.partitions if each.shards == count and each.reachable]
    trained = all(each.state == "trained" or each.records < stats.collection.train_at for each in mine)
    return len(mine) == count and trained and not any(each.busy for each in mine)


def _upsert(client: Client, base: NDArray[np.float16], first: int, rows: int) -> Sequence[object]:
    vectors = np.asarray(base[first : first + rows], np.float32)
    return client.upsert(NAME, ids=[str(first + row) for row in range(len(vectors))], vectors=vectors).errors


def table(seen: Seen) -> Table:
    """A line for each phase, with its p99 as a multiple of the first one's."""
    found = Table("while", "s", "searches", "failed", "least coverage", "p50 ms", "p99 ms", "p99 against the first")
    first = np.nan
    for phase in seen.phases:
        latencies = seen.answered.during(phase.begin, phase.end)
        p50, _, p99 = percentiles(latencies) or (np.nan,) * 3
        first = p99 if np.isnan(first) else first
        sampled = [each for each in seen.searching.seen if phase.begin <= _wall(each.at) < phase.end]
        found.add_row(
            phase.name,
            f"{phase.end - phase.begin:.1f}",
            f"{len(latencies):,}",
            f"{sum(bool(each.failure) for each in sampled)}",
            f"{min((each.coverage for each in sampled), default=np.nan):.3f}",
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"× {p99 / first:.2f}",
        )
    total, failed = len(seen.answered.log.latencies), seen.answered.failed
    found.caption = (
        f"of {total:,} searches {failed} failed, least coverage {seen.answered.answers.coverage:.3f};"
        f" of {len(seen.searching.seen):,} that were looked at, {len(seen.searching.faults)} failed or covered less\n"
        f"{[*seen.answered.answers.errors.most_common(3), *seen.searching.faults[:3], *seen.writing.faults[:3]] or ''}"
    )
    return found


def draw(seen: Seen, title: str, path: Path) -> None:
    """Latency, coverage and errors over time, and which layout answered, as PNG."""
    start = seen.phases[0].begin
    sampled = [(_wall(each.at) - start, each) for each in seen.searching.seen]
    starts = seen.answered.log.starts + seen.answered.began - start
    seconds = np.arange(0, int(seen.phases[-1].end - start))
    within = [seen.answered.log.latencies[(starts >= each) & (starts < each + 1)] for each in seconds]
    p50, p99 = np.array([1000 * np.percentile(each if len(each) else [np.nan], [50, 99]) for each in within]).T
    picture = Figure(figsize=(10, 6.5), layout="constrained")
    latency, coverage, layout = picture.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    latency.plot(seconds, p99, color="#D55E00", label="p99 of each second", linewidth=1.2)
    latency.plot(seconds, p50, color="#0072B2", label="p50 of each second", linewidth=1.2)
    latency.set_yscale("log")
    latency.set_ylabel("ms (log scale)")
    latency.legend(loc="upper right", fontsize=9)
    latency.set_title(title, fontsize=9, loc="left")
    coverage.plot([at for at, _ in sampled], [each.coverage for _, each in sampled], color="#009E73", linewidth=1.2)
    failures = [at for at, each in sampled if each.failure]
    coverage.plot(failures, [0.0] * len(failures), "x", color="black", label=f"{seen.answered.failed} errors")
    coverage.set_ylim(-0.05, 1.1)
    coverage.set_ylabel("coverage")
    coverage.legend(loc="lower right", fontsize=9)
    layout.plot([at for at, _ in sampled], [each.layout for _, each in sampled], ".", color="black", markersize=2)
    layout.set_ylabel("layout")
    layout.set_yticks(sorted({each.layout for _, each in sampled}))
    layout.set_xlabel("seconds")
    for axes in (latency, coverage, layout):
        axes.grid(True, color="#ececec", linewidth=0.6)
        for number, phase in enumerate(seen.phases):
            axes.axvline(phase.begin - start, color="#808080", linewidth=0.8, linestyle=":")
            if "→" in phase.name:
                axes.axvspan(
                    phase.begin - start, phase.end - start, color="#f0e442", alpha=0.12 + 0.1 * (number % 3 == 1)
                )
    picture.savefig(path, dpi=150, format="png")


def _wall(moment: float) -> float:
    """A moment of the monotonic clock by the wall clock."""
    return moment + time.time() - time.monotonic()


if __name__ == "__main__":
    main()
