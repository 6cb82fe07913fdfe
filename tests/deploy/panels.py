"""The dashboards' panels: each query asked of a Prometheus, and all of them drawn as one picture."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, PercentFormatter

from tests.deploy.prometheus import FILES

QueryRange = Callable[[str, float, float, float], Sequence[Mapping[str, Any]]]
"""Asks a Prometheus what an expression was, from one time to another in steps of so many seconds: a metric and values
each, as its API answers."""

COLUMNS = 3
STEPS = 200
"""Points of a line."""
MOST_NAMED = 8
FORMATS: dict[str, Callable[[], Formatter]] = {
    "s": lambda: EngFormatter("s"),
    "percentunit": lambda: PercentFormatter(1, decimals=1),
    "reqps": lambda: EngFormatter("/s"),
    "rps": lambda: EngFormatter("/s"),
    "short": lambda: FuncFormatter(lambda value, _: f"{value:,.10g}"),
}
# Okabe and Ito's, which everyone can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


class Query(NamedTuple):
    """One of a panel, and what its lines are called: `{{name}}` stands for a label's value."""

    expression: str
    legend: str


class Panel(NamedTuple):
    row: str
    title: str
    unit: str
    queries: Sequence[Query]


class Line(NamedTuple):
    """What it is called, and a value each so often, by the wall clock."""

    name: str
    times: Sequence[float]
    values: Sequence[float]


class Answer(NamedTuple):
    """A panel with its lines."""

    panel: Panel
    lines: Sequence[Line]


class Mark(NamedTuple):
    """What happened meanwhile, by the wall clock."""

    begin: float
    end: float
    what: str


def panels() -> list[Panel]:
    """Those of all the chart's dashboards, in their order."""
    found, row = [], ""
    for file in sorted((FILES / "dashboards").glob("*.json")):
        for each in json.loads(file.read_text())["panels"]:
            if each["type"] == "row":
                row = each["title"]
                continue
            queries = [Query(target["expr"], target["legendFormat"]) for target in each["targets"]]
            found.append(Panel(row, each["title"], each["fieldConfig"]["defaults"]["unit"], queries))
    return found


def ask_all(query_range: QueryRange, begin: float, end: float, *, rates_over: str) -> list[Answer]:
    """Ask every query of every panel, of all namespaces and releases.

    Args:
        query_range: Asks a Prometheus.
        begin: From when on, by the wall clock.
        end: Until when.
        rates_over: What Grafana would put for `$__rate_interval`: four scrapes at least, as in "10s".

    Raises:
        AssertionError: Some have no data; which ones.
    """
    answers, without = [], []
    step = max(1.0, (end - begin) / STEPS)
    for panel in panels():
        lines: list[Line] = []
        for query in panel.queries:
            expression = query.expression.replace("$__rate_interval", rates_over)
            expression = expression.replace("$namespace", ".*").replace("$release", ".*")
            found = [_line(query.legend, each, step) for each in query_range(expression, begin, end, step)]
            if not any(math.isfinite(value) for line in found for value in line.values):
                without.append(f"{panel.title}: {expression}")
            lines += found
        answers.append(Answer(panel, lines))
    assert not without, "no data:\n" + "\n".join(without)
    return answers


def draw(answers: Sequence[Answer], picture: Path, title: str, begin: float, marks: Sequence[Mark] = ()) -> None:
    """Draw panels as Grafana would, row by row, with what happened meanwhile behind them, as PNG.

    Args:
        answers: What to draw.
        picture: The file to write.
        title: Above it.
        begin: From where seconds count, by the wall clock.
        marks: What happened.
    """
    rows: dict[str, list[Answer]] = {}
    for answer in answers:
        rows.setdefault(answer.panel.row, []).append(answer)
    heights = [math.ceil(len(each) / COLUMNS) for each in rows.values()]
    figure = Figure(figsize=(15, 2.7 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
    for part, (row, there) in zip(parts[:, 0], rows.items(), strict=True):
        part.suptitle(row, fontsize=11, fontweight="bold", x=0.01, ha="left")
        places = part.subplots(math.ceil(len(there) / COLUMNS), COLUMNS, squeeze=False).flat
        for axes, answer in zip(places, there, strict=False):
            _draw(axes, answer, begin, marks)
    figure.savefig(picture, dpi=72, format="png")


def _draw(axes: Axes, answer: Answer, begin: float, marks: Sequence[Mark]) -> None:
    for mark in marks:
        axes.axvspan(mark.begin - begin, mark.end - begin, color="#f0e442", alpha=0.25, linewidth=0)
    for number, line in enumerate(answer.lines):
        label = line.name if number < MOST_NAMED else None
        times = [at - begin for at in line.times]
        axes.plot(times, line.values, color=COLOURS[number % len(COLOURS)], linewidth=1.1, label=label)
    axes.set_title(answer.panel.title, fontsize=8.5, loc="left")
    if answer.panel.unit == "s":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0, top=1.4 * axes.get_ylim()[1])  # with room for the names
    axes.yaxis.set_major_formatter(FORMATS[answer.panel.unit]())
    axes.tick_params(labelsize=7)
    axes.grid(True, color="#ececec", linewidth=0.6)
    if answer.lines:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.6, borderpad=0.2, labelspacing=0.2)


def _line(legend: str, found: Mapping[str, Any], step: float) -> Line:
    name = re.sub(r"{{(\w+)}}", lambda label: str(found["metric"].get(label[1], "")), legend)
    times = [at for at, _ in found["values"]]
    values = [float(value) for _, value in found["values"]]
    for number in reversed(range(1, len(times))):
        if times[number] - times[number - 1] > 1.5 * step:  # there was nothing in between
            times.insert(number, times[number])
            values.insert(number, math.nan)
    return Line(name.strip() or "all", times, values)
