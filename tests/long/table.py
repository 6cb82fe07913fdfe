"""The fault table: what was done, what was promised, what was seen."""

import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vitrail.cli.bench.machine import described

COLUMNS = ("what was done", "seeds", "what was promised", "what was seen", "")
HEADING = "# Faults: what was done to it, and what was seen\n"


class Row(NamedTuple):
    """One fault."""

    done: str
    seeds: str
    promised: str
    seen: str
    passed: bool

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.done, self.seeds, self.promised, self.seen, "passed" if self.passed else "FAILED")


def seeds_from(seeds: range) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


def counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def tested(done: str, promised: str, test: str, directory: Path) -> Row:
    """A row that tests of the suite show, in a directory of their own."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "--basetemp", str(directory), test]
    ended = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if ended.returncode:
        print(ended.stdout, ended.stderr, sep="\n", file=sys.stderr)
    seen = "as promised" if ended.returncode == 0 else "otherwise"
    return Row(done, "", promised, f"{seen}, in {seconds:.0f} s: `{test}`", ended.returncode == 0)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as Markdown, with the command that makes it again."""
    command = shlex.join(["python", "-m", "tests.long.faults", *sys.argv[1:]])
    lines = [
        HEADING,
        f"`{command}` on {described()}, {datetime.now(UTC):%Y-%m-%d}.\n",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row.cells)} |" for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n")
