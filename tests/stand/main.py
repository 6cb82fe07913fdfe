"""`make stand`: the chart's pods on this machine, what is done to them, and what callers see of it."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.report import markdown, show
from tests.stand import scenarios
from tests.stand.scenarios import Shown
from tests.stand.stand import ENDPOINT_SECONDS

SHARED = {
    "neighbours": scenarios.neighbours,
    "rolling": scenarios.rolling,
    "shards": scenarios.shards,
    "lost": scenarios.lost,
    "dashboards": scenarios.dashboards,
}
ORDERS = "orders"
NAMES = (*SHARED, ORDERS)
HEADING = "The chart's pods on one machine"
ABOUT = f"""
No cluster runs here: each pod that Helm renders from `tests/stand/values.yaml` is a process, with its own command,
environment, user, read-only file system, volumes and address, asked, replaced and ended as Kubernetes does
(`tests/stand`), on a PostgreSQL and under a Prometheus with the chart's own configuration. Endpoints are seen after
{ENDPOINT_SECONDS} s, and answers of DNS are kept for {scenarios.CACHED:.0f} s, as in many clusters. All pods, those
that start too, share the machine's cores with callers.
"""


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


def _shown(directory: Path, wanted: Sequence[str], neighbour: str) -> Iterator[tuple[str, Shown]]:
    """What each scenario shows. All but the last are on one stand, which has the neighbour's images at first."""
    images = scenarios.sources(neighbour, directory / "neighbour") if "neighbours" in wanted else None
    if set(wanted) & set(SHARED):
        with scenarios.installed(directory / "shared", images) as on:
            for name, scenario in SHARED.items():
                if name in wanted:
                    yield name, scenario(on)
    if ORDERS in wanted:
        yield ORDERS, scenarios.orders(directory / ORDERS)


def _write(found: dict[str, Shown], path: Path) -> None:
    for name, shown in found.items():
        if shown.draw:
            picture = path.with_name(f"{path.stem}-{name}.png")
            shown.draw(picture)
            found[name] = shown._replace(
                section=shown.section._replace(note=f"{shown.section.note}\n\n![]({picture.name})")
            )
    command = shlex.join(["python", "-m", "tests.stand.main", *sys.argv[1:]])
    head, mark, rest = markdown(HEADING, command, [shown.section for shown in found.values()]).partition("\n## ")
    path.write_text(f"{head}\n{ABOUT}{mark}{rest}")


if __name__ == "__main__":
    main()
