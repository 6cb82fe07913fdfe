"""Kill a shard often, at each thing that it does, and print what came back: `python -m tests.bench.kills`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.e2e.killing import PHASES, Outcome, Phase, kill
from tests.e2e.running import Running
from vitrail.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="at each phase")
    parser.add_argument("--within", type=float, default=1.0, help="seconds after a phase began, chosen evenly")
    asked = parser.parse_args()
    table = Table(title="kill -9 of one of two shards", title_justify="left")
    for column in ("while", "kills", "as published", "seconds until caught up", "missing", "double", "failed searches"):
        table.add_column(column, justify="left" if column == "while" else "right")
    with tempfile.TemporaryDirectory() as directory:
        running = Running(Path(directory) / "data", "--shards", "2", "--port", "0", "--metrics-port", "0")
        try:
            with Client(running.address) as client:
                for phase in PHASES:
                    delays = np.linspace(0, asked.within, asked.kills)
                    outcomes = [kill(running, client, phase, float(delay)) for delay in delays]
                    table.add_row(*row(phase, outcomes))
        finally:
            running.stop()
    Console(width=120).print(table)


def row(phase: Phase, outcomes: Sequence[Outcome]) -> list[str]:
    seconds = [outcome.seconds for outcome in outcomes]
    return [
        phase,
        str(len(outcomes)),
        str(sum(outcome.opened == outcome.published for outcome in outcomes)),
        f"{np.median(seconds):.1f} (at most {max(seconds):.1f})",
        str(sum(outcome.missing for outcome in outcomes)),
        str(sum(outcome.double for outcome in outcomes)),
        f"{sum(len(outcome.failed) for outcome in outcomes)} of {sum(outcome.searches for outcome in outcomes):,}",
    ]


if __name__ == "__main__":
    main()
