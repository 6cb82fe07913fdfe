"""A search by photo as a picture of its trace: `python -m tests.stand.trace --out docs/trace.png`.

A cluster of two shards with real photos, callers at the same time who each trace themselves, and a collector over a
real socket. The picture is of the fastest that went in a batch with others.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from tests.collector import CALLER, Collector, Told, calling, running_collector
from tests.e2e.photos import photos
from tests.e2e.running import Running, eventually
from vitrail.client import Client, Record

CALLERS, ROUNDS = 3, 20
COLOURS = {"vitrail-coordinator": "tab:blue", "vitrail-shard-0": "tab:orange", "vitrail-shard-1": "tab:green"}


class Row(NamedTuple):
    """A span, how deep it lies, and whether it was found by a link, since it is in the trace of another caller."""

    span: Told
    depth: int
    is_linked: bool


def traced(directory: Path) -> list[Row]:
    """Of searches at the same time the fastest that shared a batch, after a few that warm all processes up."""
    with running_collector() as collector:
        os.environ.update(collector.environment)
        running = Running(directory, "--shards", "2", "--port", "0", "--metrics-port", "0")
        try:
            with Client(running.address) as client, ThreadPoolExecutor(CALLERS) as callers:
                client.create_collection("photos")
                images = photos()
                client.upsert("photos", [Record(name, image=image) for name, image in images.items()])
                chosen = list(images.values())[:CALLERS]
                for image in chosen:
                    client.search("photos", image=image)

                def search(trace: int) -> None:
                    with calling(trace):
                        client.search("photos", image=chosen[trace % CALLERS])

                for first in range(1, ROUNDS * CALLERS, CALLERS):
                    traces = range(first, first + CALLERS)
                    list(callers.map(search, traces))
                    eventually(lambda seen=traces: is_told(collector, seen))  # type: ignore[misc]
        finally:
            running.stop()
    searches = [rows(collector.spans, f"{trace:032x}") for trace in range(1, 1 + ROUNDS * CALLERS)]
    return min((found for found in searches if any(row.is_linked for row in found)), key=seconds)


def seconds(found: Sequence[Row]) -> float:
    """How long the first span took, which is the call."""
    return found[0].span.end - found[0].span.start


def is_told(collector: Collector, traces: Sequence[int]) -> bool:
    """Whether all processes have told everything of these searches."""
    spans = [span for trace in traces for span in collector.of(f"{trace:032x}")]
    count = {name: sum(span.name == name for span in spans) for name in ("Search", "search batch", "SearchBatch")}
    ids = {span.id for span in spans}
    return (
        count["Search"] == len(traces)
        and count["SearchBatch"] == len(COLOURS.keys() - {"vitrail-coordinator"}) * count["search batch"]
        and all(link in ids for span in spans for link in span.links)
    )


def rows(spans: Sequence[Told], trace: str) -> list[Row]:
    """A trace from its caller on, with the batches that it is linked to."""
    ordered = sorted(spans, key=lambda span: span.start)

    def below(parent: str, of: str, depth: int, *, is_linked: bool) -> Iterator[Row]:
        for span in ordered:
            if (span.parent, span.trace) == (parent, of):
                yield from one(span, depth, is_linked=is_linked)

    def one(span: Told, depth: int, *, is_linked: bool) -> Iterator[Row]:
        yield Row(span, depth, is_linked)
        yield from below(span.id, span.trace, depth + 1, is_linked=is_linked)
        if not span.name.endswith(" batch"):  # those are linked to all who wait
            for other in ordered:
                if other.id in span.links:
                    yield from one(other, depth + 1, is_linked=True)

    return list(below(f"{CALLER:016x}", trace, 0, is_linked=False))


def draw(found: Sequence[Row], path: Path) -> None:
    """Names by depth, bars by time."""
    first = min(row.span.start for row in found)
    last = max(row.span.end for row in found)
    figure, axes = plt.subplots(figsize=(12, 0.38 * len(found) + 1.2), layout="constrained")
    for place, (span, _, is_linked) in enumerate(found):
        left, width = 1000 * (span.start - first), 1000 * (span.end - span.start)
        colour = COLOURS[span.service]
        axes.barh(place, width, left=left, color=colour, edgecolor=colour, height=0.6)
        if is_linked:
            axes.barh(place, width, left=left, color="none", edgecolor="white", hatch="////", linewidth=0, height=0.6)
        axes.text(left + width, place, f" {width:.2f} ms  {_said(span)}", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [f"{'    ' * row.depth}{row.span.name}" for row in found], ha="left")
    axes.tick_params(axis="y", pad=150, length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1700 * (last - first))
    axes.set_xlabel("ms after the coordinator took the call")
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    linked = Patch(facecolor="grey", edgecolor="white", hatch="////", label="in the trace of another caller, linked")
    figure.legend(handles=[*handles, linked], loc="outside lower center", ncols=4, fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _said(span: Told) -> str:
    said = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in _own(span)]
    if span.links and span.name.endswith(" batch"):
        said.append(f"linked to {len(span.links)} other{'s' if len(span.links) > 1 else ''}")
    return ", ".join(said)


def _own(span: Told) -> list[tuple[str, object]]:
    return [(key, value) for key, value in span.attributes.items() if not key.startswith("rpc.")]


def main() -> None:
    """Trace and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/trace.png"))
    with tempfile.TemporaryDirectory() as directory:
        draw(traced(Path(directory) / "data"), parser.parse_args().out)


if __name__ == "__main__":
    main()
