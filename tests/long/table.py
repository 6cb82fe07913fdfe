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


def tested(done: str, promised: str, *tests: str) -> Row:
    """A row that tests of the suite show."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *tests]
    ended = subprocess.run(command, capture_output=True, text=True)
    last = ended.stdout.strip().splitlines()[-1:] or ended.stderr.strip().splitlines()[-1:]
    if ended.returncode:
        print(ended.stdout, ended.stderr, sep="\n", file=sys.stderr)
    names = ", ".join(f"`{test}`" for test in tests)
    seen = "as promised" if ended.returncode == 0 else "".join(last)
    return Row(done, "", promised, f"{seen}, in {time.monotonic() - start:.0f} s: {names}", ended.returncode == 0)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as Markdown, with the command that makes it again."""
    lines = [
        HEADING,
        f"`python -m tests.long.faults {shlex.join(sys.argv[1:])}`".replace(" `", "`")
        + f" on {described()}, {datetime.now(UTC):%Y-%m-%d}.\n",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row.cells)} |" for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n")
