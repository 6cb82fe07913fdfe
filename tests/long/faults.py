"""The faults that a cluster must survive, each made again and again with real processes; prints and keeps the table.

`make test-long`, or `python -m tests.long.faults`; with --only, the rows whose names contain a word.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.long import coordinators, replicas, shards, stores
from tests.long.table import COLUMNS, Row, tested, write
from tests.postgres import running_postgres

TESTED = {
    "store away at the start": (
        "PostgreSQL stopped, and the coordinator killed and started again meanwhile",
        "it searches what shards hold, and writes once the store is back",
        "tests/e2e/test_replicas.py::test_a_coordinator_that_starts_while_the_store_is_away",
    ),
    "shard at work": (
        "a shard: kill -9 while it folds, trains, compacts and publishes, and of the process that builds for it",
        "what was published comes back and catches up; none missing, none double, no search fails",
        "tests/e2e/test_kills.py",
    ),
    "disk lost": (
        "a shard's disk lost, and a snapshot of it damaged",
        "it starts from the snapshot and follows from there; what is damaged is never opened",
        "tests/e2e/test_snapshots.py",
    ),
    "disk full": (
        "a shard that may write no further, as on a full disk",
        "it answers, says why it is behind, and catches up",
        "tests/e2e/test_full_disk.py",
    ),
    "wrong content": (
        "two shards that claim the same place with different content",
        "detected by digest, left out, rebuilt",
        "tests/e2e/test_digests.py",
    ),
    "cut off": (
        "a replica stopped with SIGSTOP for longer than the horizon, cut off from the log; on SQLite and PostgreSQL",
        "detected, rebuilt; no deleted record is found by who must see a write of since",
        "tests/e2e/test_outdated.py::test_a_replica_that_was_cut_off_for_longer_than_the_horizon",
    ),
    "older backup": (
        "SQLite and PostgreSQL restored from an older backup under running shards, and written to since",
        "detected, rebuilt; nothing that is gone is found by who must see a write of since; who asks for a write that"
        " is gone is told",
        "tests/e2e/test_outdated.py::test_a_store_that_was_restored_from_an_older_backup",
    ),
    "erasure": (
        "records deleted, replaced, or of a collection that was dropped, and purged; on SQLite and PostgreSQL",
        "none of their bytes is in any file of the store, its write-ahead log (PostgreSQL's once it lets go of it),"
        " partitions, or snapshots (an hour later)",
        "tests/e2e/test_purging.py",
    ),
    "other weights": (
        "a coordinator started with other weights under the name of the same embedder",
        "refused where vectors would be mixed, with both spaces named",
        "tests/e2e/test_embedders.py::test_other_weights_under_the_same_name",
    ),
    "moving": (
        "a collection exported and imported into another cluster; export and import killed on the way",
        "all of it as before, bit for bit; what was killed can be run again",
        "tests/e2e/test_moving.py",
    ),
    "re-embedding": (
        "a collection re-embedded with writes and deletes all the while, flipped, flipped back and flipped again",
        "nothing is lost: each version holds what was written; no search fails",
        "tests/e2e/test_versions.py",
    ),
    "resharding": (
        "2 shards become 3 while callers search, and 2 again",
        "no search fails or covers less; the processes of before are gone, with their files",
        "tests/e2e/test_replicas.py::test_another_number_of_shards_takes_over",
    ),
}
"""Rows that tests of the suite show: what is done, what is promised, and where."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=200, help="kills of the coordinator on SQLite")
    parser.add_argument("--fewer-seeds", type=int, default=50, help="kills of all else")
    parser.add_argument("--away", type=float, default=20.0, help="seconds for which something is gone")
    parser.add_argument("--rate", type=float, default=100.0, help="searches a second while a replica is stopped")
    parser.add_argument("--operations", type=int, default=1_000_000, help="mixed, before digests are compared")
    parser.add_argument("--only", default="", help="a word in the names of the rows to make")
    parser.add_argument("--out", type=Path, help="write the table here, as Markdown")
    given = parser.parse_args()
    rows = []
    for name, fault in faults(given).items():
        if given.only in name:
            with tempfile.TemporaryDirectory(prefix="vitrail-faults-") as directory:
                rows.append(_made(name, fault, Path(directory) / "data"))
            print(f"{name}: {rows[-1].seen}", flush=True)
    table = Table(*COLUMNS, title="faults", title_justify="left", show_lines=True)
    for row in rows:
        table.add_row(*row.cells)
    Console(width=160).print(table)
    if given.out:
        write(rows, given.out)
    sys.exit(not all(row.passed for row in rows))


def faults(given: argparse.Namespace) -> dict[str, Callable[[Path], Row]]:
    """Every row by its name; each is made in a directory of its own."""
    many = range(given.first_seed, given.first_seed + given.seeds)
    fewer = range(given.first_seed, given.first_seed + given.fewer_seeds)
    return {
        "coordinator on SQLite": lambda directory: coordinators.killed(
            directory, str(directory / "store"), "SQLite", 1, many
        ),
        "coordinators on PostgreSQL": partial(_on_postgres, seeds=fewer),
        "PostgreSQL stopped": partial(stores.away, how=stores.STOPPED, seconds=given.away),
        "PostgreSQL killed": partial(stores.away, how=stores.KILLED, seconds=given.away),
        "PostgreSQL hanging": partial(stores.away, how=stores.HANGING, seconds=given.away),
        "replica killed": partial(shards.replica_killed, seeds=fewer),
        "shard killed": partial(shards.shard_killed, seconds=given.away),
        "replica stopped": partial(shards.replica_stopped, rate=given.rate, seconds=given.away),
        "digests": partial(
            replicas.mixed, operations=given.operations, restarts=given.fewer_seeds, seed=given.first_seed
        ),
        **{name: partial(tested, *words) for name, words in TESTED.items()},
    }


def _on_postgres(directory: Path, seeds: range) -> Row:
    with running_postgres() as postgres:
        return coordinators.killed(directory, postgres.new_database(), "PostgreSQL", 2, seeds)


def _made(name: str, fault: Callable[[Path], Row], directory: Path) -> Row:
    """A row; where making it failed, one that says how."""
    try:
        return fault(directory)
    except Exception as error:
        traceback.print_exc()
        return Row(name, "", "", repr(error), False)


if __name__ == "__main__":
    main()
