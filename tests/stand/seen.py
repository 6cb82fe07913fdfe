"""What callers saw while something was done to the stand: a table, and a picture over time."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.report import Section
from tests.stand.cluster import Event
from tests.stand.load import Answers
from vitrail.cli.bench.loops import percentiles

COLUMNS = ("while", "s", "searches", "failed", "least coverage", "p50 ms", "p99 ms", "p99 against the first")
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#b0b0b0"  # Okabe and Ito's, which everyone can tell apart


class Phase(NamedTuple):
    """A while, by the wall clock."""

    name: str
    begin: float
    end: float


class Seen(NamedTuple):
    """What was done when, what came of searches, and what pods did meanwhile."""

    phases: Sequence[Phase]
    answers: Answers
    events: Sequence[Event]

    @property
    def begin(self) -> float:
        return self.phases[0].begin

    @property
    def end(self) -> float:
        return self.phases[-1].end


def section(title: str, seen: Seen, note: str) -> Section:
    """A line for each phase."""
    rows, first = [], np.nan
    for phase in seen.phases:
        found = seen.answers.during(phase.begin, phase.end)
        p50, _, p99 = percentiles(found.seconds[~found.failed]) or (np.nan,) * 3
        first = p99 if np.isnan(first) else first
        rows.append(
            (
                phase.name,
                f"{phase.end - phase.begin:.0f}",
                f"{len(found.at):,}",
                f"{found.failed.sum():,}",
                f"{np.nanmin(found.coverage, initial=1):.3f}",
                f"{p50:.1f}",
                f"{p99:.1f}",
                f"× {p99 / first:.1f}",
            )
        )
    return Section(title, COLUMNS, rows, note)


def draw(title: str, seen: Seen, path: Path) -> None:
    """Latency, coverage, and which pods were ready, over time, as PNG."""
    gone = {event.pod: event.at for event in seen.events if event.what == "is gone"}
    there = dict.fromkeys(event.pod for event in seen.events if re.search("-coordinator-|-shard-", event.pod))
    lines = [pod for pod in there if gone.get(pod, seen.end) > seen.begin]
    picture = Figure(figsize=(10, 5.5 + 0.16 * len(lines)), layout="constrained")
    latency, coverage, pods = picture.subplots(3, 1, sharex=True, height_ratios=[3, 1, 0.4 + 0.22 * len(lines)])
    latency.set_title(title, fontsize=9, loc="left")
    _draw_latency(latency, seen)
    _draw_coverage(coverage, seen)
    _draw_pods(pods, seen, lines)
    for axes in (latency, coverage, pods):
        axes.grid(True, axis="x" if axes is pods else "both", color="#ececec", linewidth=0.6)
        axes.set_xlim(0, seen.end - seen.begin)
        for number, phase in enumerate(seen.phases):
            axes.axvline(phase.begin - seen.begin, color="#808080", linewidth=0.8, linestyle=":")
            if number % 2:
                axes.axvspan(phase.begin - seen.begin, phase.end - seen.begin, color="#f0e442", alpha=0.12, zorder=0)
    for phase in seen.phases:
        latency.text(
            phase.begin - seen.begin,
            1.0,
            f" {phase.name}",
            fontsize=7,
            va="top",
            transform=latency.get_xaxis_transform(),
        )
    picture.savefig(path, dpi=150, format="png")


def _draw_latency(axes: Axes, seen: Seen) -> None:
    seconds = np.arange(int(seen.end - seen.begin))
    found = seen.answers
    within = [
        found.seconds[(found.at >= each) & (found.at < each + 1) & ~found.failed] for each in seconds + seen.begin
    ]
    p50, p99 = np.array([1000 * np.percentile(each if len(each) else [np.nan], [50, 99]) for each in within]).T
    axes.plot(seconds + 0.5, p99, color=ORANGE, label="p99 of each second", linewidth=1.2)
    axes.plot(seconds + 0.5, p50, color=BLUE, label="p50 of each second", linewidth=1.2)
    axes.set_yscale("log")
    axes.set_ylabel("ms (log scale)")
    axes.legend(loc="center right", fontsize=8)


def _draw_coverage(axes: Axes, seen: Seen) -> None:
    found, failed = seen.answers, seen.answers.failed
    layouts = sorted(set(found.layout[~failed].tolist()))
    for layout, colour in zip(layouts, (BLUE, ORANGE, GREEN), strict=False):
        mine = found.layout == layout
        axes.plot(
            found.at[mine] - seen.begin,
            found.coverage[mine],
            ".",
            markersize=2,
            color=colour,
            label=f"{layout:.0f} shards",
        )
    axes.plot(found.at[failed] - seen.begin, [0.0] * failed.sum(), "x", color="black", label=f"{failed.sum()} failed")
    axes.set_ylim(-0.08, 1.12)
    axes.set_ylabel("coverage")
    axes.legend(loc="lower right", fontsize=8)


def _draw_pods(axes: Axes, seen: Seen, lines: Sequence[str]) -> None:
    """A bar for each pod: grey while it is there, green while it is ready."""
    for line, pod in enumerate(lines):
        mine = [event for event in seen.events if event.pod == pod]
        for what, ends, colour in (
            ("is made", ("is gone",), GREY),
            ("is ready", ("ends", "is not ready", "has"), GREEN),
        ):
            begins = [event.at for event in mine if event.what == what]
            for begin in begins:
                end = min(
                    (each.at for each in mine if each.at > begin and each.what.startswith(ends)), default=seen.end
                )
                axes.barh(line, end - begin, left=begin - seen.begin, height=0.7, color=colour)
    axes.set_yticks(range(len(lines)), [pod.removeprefix("vitrail-") for pod in lines], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds; green: ready")
