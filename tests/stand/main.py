"""`make stand`: the chart's pods on this machine, what is done to them, and what callers see of it."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.report import show, write
from tests.stand import scenarios
from tests.stand.scenarios import Shown

NAMES = ("rolling", "shards", "lost", "dashboards", "neighbours", "orders")
SHARED = NAMES[:4]
"""On one stand, one after another."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="leave the others out")
    parser.add_argument("--neighbour", default="HEAD~1", help="the commit whose processes are mixed with these")
    parser.add_argument("--out", type=Path, help="write tables here, as Markdown, and pictures beside it")
    given = parser.parse_args()
    wanted = given.only or NAMES
    found = {}
    with tempfile.TemporaryDirectory(prefix="vitrail-stand-") as directory:
        for name, shown in _shown(Path(directory), wanted, given.neighbour):
            found[name] = shown
            show(shown.section)
    if given.out:
        _write(found, given.out)


def _shown(directory: Path, wanted: tuple[str, ...], neighbour: str) -> Iterator[tuple[str, Shown]]:
    """What each scenario shows; those that leave the stand as it was share one."""
    shared = [name for name in SHARED if name in wanted]
    if shared:
        with scenarios.installed(directory / "shared") as on:
            for name in shared:
                yield name, getattr(scenarios, name)(on)
    if "neighbours" in wanted:
        with scenarios.installed(directory / "mixed", scenarios.sources(neighbour, directory / "neighbour")) as on:
            yield "neighbours", scenarios.neighbours(on)
    if "orders" in wanted:
        yield "orders", scenarios.orders(directory / "orders")


def _write(found: dict[str, Shown], path: Path) -> None:
    for name, shown in found.items():
        if shown.draw:
            picture = path.with_name(f"{path.stem}-{name}.png")
            shown.draw(picture)
            found[name] = shown._replace(
                section=shown.section._replace(note=f"{shown.section.note}\n\n![]({picture.name})")
            )
    command = shlex.join(["python", "-m", "tests.stand.main", *sys.argv[1:]])
    write(path, "The chart on this machine", command, [shown.section for shown in found.values()])


if __name__ == "__main__":
    main()
