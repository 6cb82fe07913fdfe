"""One search by photo as a picture of its trace: `python -m tests.stand.trace --out docs/trace.png`.

A cluster of two shards with real photos, a caller who traces itself, and a collector over a real socket.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from tests.collector import CALLER, Told, calling, running_collector
from tests.e2e.photos import photos
from tests.e2e.running import Running, eventually
from vitrail.client import Client, Record

TRACE, SPANS = 7, 11
COLOURS = {"vitrail-coordinator": "tab:blue", "vitrail-shard-0": "tab:orange", "vitrail-shard-1": "tab:green"}


def traced(directory: Path) -> list[Told]:
    """The spans of one search, after a few that warm all processes up."""
    with running_collector() as collector:
        os.environ.update(collector.environment)
        running = Running(directory, "--shards", "2", "--port", "0", "--metrics-port", "0")
        try:
            with Client(running.address) as client:
                client.create_collection("photos")
                images = photos()
                client.upsert("photos", [Record(name, image=image) for name, image in images.items()])
                for image in images.values():
                    client.search("photos", image=image)
                with calling(TRACE):
                    client.search("photos", image=next(iter(images.values())))
            eventually(lambda: len(collector.of(f"{TRACE:032x}")) == SPANS)
        finally:
            running.stop()
        return collector.of(f"{TRACE:032x}")


def in_order(spans: Sequence[Told], parent: str = f"{CALLER:016x}", depth: int = 0) -> Iterator[tuple[int, Told]]:
    """Each span below its parent, with how deep it lies."""
    for span in spans:
        if span.parent == parent:
            yield depth, span
            yield from in_order(spans, span.id, depth + 1)


def draw(spans: Sequence[Told], path: Path) -> None:
    rows = list(in_order(spans))
    first = min(span.start for span in spans)
    figure, axes = plt.subplots(figsize=(11, 0.42 * len(rows) + 1), layout="constrained")
    for row, (_, span) in enumerate(rows):
        left, width = 1000 * (span.start - first), 1000 * (span.end - span.start)
        axes.barh(row, width, left=left, color=COLOURS[span.service], height=0.6)
        said = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in _told(span)
        )
        axes.text(left + width, row, f" {width:.2f} ms  {said}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{'    ' * depth}{span.name}" for depth, span in rows], ha="left")
    axes.tick_params(axis="y", pad=130, length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1600 * (max(span.end for span in spans) - first))
    axes.set_xlabel("ms after the call")
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    axes.legend(handles, list(COLOURS), loc="lower left", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _told(span: Told) -> list[tuple[str, object]]:
    return [(key, value) for key, value in span.attributes.items() if not key.startswith("rpc.")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/trace.png"))
    with tempfile.TemporaryDirectory() as directory:
        draw(traced(Path(directory) / "data"), parser.parse_args().out)


if __name__ == "__main__":
    main()
