"""What is done to the stand, and what was seen of it."""

import json
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.report import Section
from tests.deploy import panels
from tests.deploy.prometheus import Prometheus
from tests.e2e.running import wait_applied, wait_trained
from tests.stand import load, seen
from tests.stand.load import Answers, Callers
from tests.stand.scraping import scraping
from tests.stand.seen import Phase, Seen
from tests.stand.stand import HERE, Stand
from vitrail.client import Client

RESTART_SHARE, SHARE = 0.7, 0.5
"""Of the peak load: while all pods are replaced, and while more of them run than before, on as many cores."""
LEAD = 10.0
"""Seconds before and after what is done."""
IN_FLIGHT = 0.5
"""Seconds that a phase begins before what is done in it: what is in flight then belongs to it."""
PEAK_SECONDS = 8.0
CACHED = 30.0
"""Seconds for which answers to names are kept: as long as the caches of many clusters do."""
FEW = 20.0
"""Searches a second where it is not about load."""
ALERT_PATIENCE = 600.0
PREVIOUS = "previous"
"""The tag of the neighbour's images."""


class Shown(NamedTuple):
    """What a scenario shows: a table, and a picture where there is one."""

    section: Section
    draw: Callable[[Path], None] | None = None


class Installed(NamedTuple):
    """A stand in service, with records in it."""

    stand: Stand
    client: Client
    callers: Callers
    prometheus: Prometheus
    peak: float
    since: float


@contextmanager
def installed(directory: Path, neighbour: Path | None = None) -> Iterator[Installed]:
    """Install the chart, and load records.

    Args:
        directory: For all that it keeps.
        neighbour: The source of the images; this one's where not given.
    """
    images = {PREVIOUS: neighbour} if neighbour else {}
    with Stand(directory, images=images, cached=CACHED) as stand, Client(stand.address, timeout=60) as client:
        stand.apply({"images": {"tag": PREVIOUS}} if neighbour else {})
        stand.settle()
        with scraping(stand, directory / "prometheus") as prometheus, Callers(stand.address) as callers:
            since = time.time()
            load.fill(client)
            wait_applied(client, load.NAME)
            wait_trained(client, load.NAME)
            yield Installed(stand, client, callers, prometheus, callers.peak(PEAK_SECONDS), since)


def rolling(on: Installed) -> Shown:
    """All pods are replaced, coordinators and both replicas of each shard, by a changed annotation."""

    def act() -> Iterator[str]:
        yield "before"
        yield "all pods are replaced"
        _annotate(on.stand)
        on.stand.settle()
        yield "after"

    return _under_load(on, "A rolling restart of everything", act, RESTART_SHARE * on.peak)


def shards(on: Installed) -> Shown:
    """Another number of shards, by that value."""

    def act() -> Iterator[str]:
        yield "[2]"
        yield "[2] → [2, 3], until 3 serve"
        on.stand.apply({"shards": [2, 3]})
        on.stand.wait(lambda: on.client.shards().serving == 3)
        yield "[2, 3], 3 serve"
        on.stand.settle()
        yield "[2, 3] → [3]"
        on.stand.apply({"shards": [3]})
        on.stand.settle()
        yield "[3]"

    return _under_load(on, "`shards: [2]` → `[2, 3]` → `[3]`", act, SHARE * on.peak)


def neighbours(on: Installed) -> Shown:
    """From the neighbour's images to these, with a while where half of the pods are of each."""

    def act() -> Iterator[str]:
        yield "the previous version alone"
        yield "half of it is replaced"
        on.stand.apply({"images": {"tag": ""}}, keep=1)
        on.stand.settle()
        yield "half of each"
        time.sleep(LEAD)
        yield "the other half is replaced"
        on.stand.apply()
        on.stand.settle()
        yield "this version alone"

    return _under_load(on, "The previous commit's processes mixed with this one's", act, SHARE * on.peak)


def lost(on: Installed) -> Shown:
    """Both processes of a shard are killed and kept away until an alert fires; then they are let back."""
    moments: list[tuple[str, float]] = []
    layout = on.client.shards().serving
    shard = f"vitrail-of-{layout}-shard-0"

    def firing() -> set[str]:
        return set(on.prometheus.firing())

    def act() -> Iterator[str]:
        yield "before"
        yield "shard 0 is gone"
        before, began = firing(), time.time()
        on.stand.keep_away([shard])
        on.stand.wait(lambda: bool(firing() - before), ALERT_PATIENCE)
        fired = sorted(firing() - before)
        moments.append((f"{', '.join(fired)} fires", time.time() - began))
        yield f"shard 0 is let back; {', '.join(fired)} fires"
        began = time.time()
        on.stand.let_back()
        on.stand.settle()
        moments.append(("all pods are available again", time.time() - began))
        on.stand.wait(lambda: not firing() - before, ALERT_PATIENCE)
        moments.append((f"{', '.join(fired)} is resolved", time.time() - began))
        yield "after"

    shown = _under_load(on, "A shard without another replica killed and kept away", act, FEW)
    after = "; ".join(f"{what} after {seconds:.0f} s" for what, seconds in moments)
    return Shown(shown.section._replace(note=f"{shown.section.note} {after}."), shown.draw)


def dashboards(on: Installed) -> Shown:
    """Each query of the dashboards, asked of this Prometheus since the stand was installed."""
    on.callers.begin(FEW)
    try:
        load.call_all(on.client, 4 * LEAD)
    finally:
        on.callers.end()
    answers = panels.ask_all(on.prometheus.query_range, on.since, time.time(), rates_over="1m")
    rows = []
    for row in dict.fromkeys(answer.panel.row for answer in answers):
        mine = [answer for answer in answers if answer.panel.row == row]
        queries, lines = sum(len(each.panel.queries) for each in mine), sum(len(each.lines) for each in mine)
        rows.append((row, str(len(mine)), str(queries), str(lines)))
    title = "Dashboards: each query answered with data"
    found = Section(title, ("row", "panels", "queries", "lines"), rows)
    return Shown(found, lambda path: panels.draw(answers, path, title, on.since))


def orders(directory: Path) -> Shown:
    """What starts before what it needs waits, and becomes ready by itself."""
    coordinators, shards = ["vitrail-coordinator"], ["vitrail-of-2-shard-0", "vitrail-of-2-shard-1"]
    with _small(directory / "store") as stand:
        first = _order(
            stand, "a coordinator before its store", stand.postgres.stop, stand.postgres.start, "coordinator"
        )
    with _small(directory / "shards") as stand:
        second = _order(
            stand, "a coordinator before any shard", lambda: stand.keep_away(shards), stand.let_back, "coordinator"
        )
    with _small(directory / "coordinators") as stand:
        third = _order(
            stand, "a shard before any coordinator", lambda: stand.keep_away(coordinators), stand.let_back, "shard"
        )
    columns = (
        "what starts first",
        "waits s",
        "ready meanwhile",
        "restarts",
        "ready s after what it waits for",
        "it says",
    )
    return Shown(Section("Starting orders", columns, [first, second, third]))


@contextmanager
def _small(directory: Path) -> Iterator[Stand]:
    """Nothing twice."""
    with Stand(directory) as stand:
        stand.values |= {"replicas": 1, "nodes": 1}
        stand.values["coordinator"] |= {"replicas": 1, "autoscaling": {"enabled": False}}
        yield stand


def _order(
    stand: Stand, name: str, take_away: Callable[[], None], give_back: Callable[[], None], waiting: str
) -> Sequence[str]:
    """A row for something that starts while something is not there."""
    take_away()
    stand.apply()
    stand.wait(lambda: all(_waits(stand.log(pod)) for pod in stand.pods(waiting)))
    time.sleep(LEAD)
    pods = stand.pods(waiting)
    ready = sum(pod.ready is not None for pod in pods)
    words = _waits(stand.log(pods[0]))
    give_back()
    began = time.monotonic()
    stand.wait(lambda: all(pod.ready is not None for pod in pods))
    seconds = time.monotonic() - began
    stand.wait(lambda: all(pod.ready is not None for pod in (*stand.pods("coordinator"), *stand.pods("shard"))))
    restarts = sum(pod.restarts for pod in pods)
    return (name, f"{LEAD:.0f}", f"{ready} of {len(pods)}", str(restarts), f"{seconds:.1f}", words)


def _waits(log: Sequence[str]) -> str:
    """What a process said last of what it waits for, or nothing."""
    said = [json.loads(line) for line in log if '"waiting for' in line]
    return textwrap.shorten(f"{said[-1]['event']}: {said[-1]['why']}", 160, placeholder=" …") if said else ""


def _under_load(on: Installed, title: str, act: Callable[[], Iterator[str]], rate: float) -> Shown:
    """Do something while callers search; what it yields begins a phase. The first and the last one last a while."""
    phases: list[Phase] = []
    on.callers.begin(rate)
    try:
        for name in act():
            now = time.time()
            phases = [*phases[:-1], phases[-1]._replace(end=now)] if phases else []
            phases.append(Phase(name, now, now))
            time.sleep(IN_FLIGHT if len(phases) > 1 else LEAD)
        time.sleep(LEAD)
        phases[-1] = phases[-1]._replace(end=time.time())
    finally:
        answers = on.callers.end()
    found = Seen(phases, answers, on.stand.events)
    share = f"{rate:,.0f} searches/s that come when they come, {rate / on.peak:.0%} of what is answered at most"
    note = f"{share}; {_faults(answers)}."
    return Shown(seen.section(title, found, note), lambda path: seen.draw(f"{title}: {note}", found, path))


def _faults(answers: Answers) -> str:
    reasons = "".join(f"; {count} {reason}" for reason, count in answers.reasons.most_common(3))
    return f"{answers.failed.sum():,} of {len(answers.at):,} failed{reasons}"


def _annotate(stand: Stand) -> None:
    """Have every pod of coordinators and shards replaced, as `kubectl rollout restart` does."""
    changed = {"annotations": {"vitrail.dev/restarted": f"{time.time():.0f}"}}
    stand.apply({"coordinator": changed, "shard": changed})


def sources(commit: str, directory: Path) -> Path:
    """The files of another commit, in a directory that is made."""
    directory.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", HERE, "archive", commit], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory
