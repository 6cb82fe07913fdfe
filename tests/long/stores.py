"""A PostgreSQL that goes away, or stands still, and comes back."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.e2e.running import Running, eventually, wait_applied
from tests.e2e.searching import Searching
from tests.long.table import Row, counted
from tests.postgres import Postgres, running_postgres
from tests.shard.rows import clustered
from vitrail.client import Client, DeadlineExceeded, Unavailable, VitrailError

NAME, RECORDS, DIMENSION = "c", 2000, 16
CALLERS = 2
WRITE_TIMEOUT = 2.0
"""What those who write have time for."""
PAUSE = 0.2


class Away(NamedTuple):
    """How it goes away and comes back, and how soon writes are to be refused."""

    name: str
    leave: Callable[[Postgres], None]
    come_back: Callable[[Postgres], None]
    refused_within: float
    may_be_written: bool
    """Whether a call that failed may be there afterwards: it was on its way."""


STOPPED = Away("stopped", Postgres.stop, Postgres.start, 1.0, False)
KILLED = Away("killed with -9", Postgres.kill, Postgres.start, 1.0, False)
HANGING = Away(
    "stopped with SIGSTOP, so that nothing answers,", Postgres.suspend, Postgres.resume, WRITE_TIMEOUT + 0.5, True
)


class Write(NamedTuple):
    """One call: when it began, how long it took, and the error that it ended with."""

    name: str
    seconds: float
    error: VitrailError | None


def away(directory: Path, how: Away, seconds: float) -> Row:
    """Search and write all the while; then see what is there."""
    with running_postgres() as postgres:
        store = postgres.new_database()
        running = Running(directory, "--shards", "2", "--store", store, "--port", "0", "--metrics-port", "0")
        try:
            return _away(running, postgres, how, seconds)
        finally:
            running.stop()


def _away(running: Running, postgres: Postgres, how: Away, seconds: float) -> Row:
    vectors = clustered(RECORDS, DIMENSION)
    with Client(running.address, timeout=WRITE_TIMEOUT, retries=0) as client:
        client.create_collection(NAME, dimension=DIMENSION)
        client.upsert(NAME, ids=[f"r{number}" for number in range(RECORDS)], vectors=vectors)
        wait_applied(client, NAME)
        searching = [Searching(running.address, NAME, vectors, timeout=5) for _ in range(CALLERS)]
        how.leave(postgres)
        writes: list[Write] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            writes.append(_write(client, len(writes)))
            time.sleep(PAUSE)
        how.come_back(postgres)
        back = time.monotonic()
        while not writes or writes[-1].error:
            writes.append(_write(client, len(writes)))
        healed = time.monotonic() - back
        eventually(lambda: _is_served(client))
        for each in searching:
            each.stop()
        there = {record.id for record in client.list(NAME)}
        stats = wait_applied(client, NAME)
        held = sum(partition.records for partition in stats.partitions)
    faults = [fault for each in searching for fault in each.faults]
    refused = [write for write in writes if write.error]
    slowest = max(write.seconds for write in refused)
    lost = sum(not write.error and write.name not in there for write in writes)
    appeared = sum(write.error is not None and write.name in there for write in writes)
    wrong = [write.error for write in refused if not isinstance(write.error, Unavailable | DeadlineExceeded)]
    errors = Counter(type(write.error).__name__ for write in refused)
    return Row(
        f"PostgreSQL {how.name} for {seconds:.0f} s",
        "",
        f"searches go on without an error; writes are refused within {how.refused_within:.1f} s; all heals by itself",
        f"{sum(len(each.seen) for each in searching):,} searches, {len(faults)} failed or covered less;"
        f" {len(refused)} writes refused ({counted(errors)}) within {slowest:.2f} s, {appeared} of them there"
        f" afterwards; acknowledged again {healed:.1f} s after it was back; {lost} acknowledged ones lost",
        not (faults or lost or wrong or (appeared and not how.may_be_written))
        and slowest <= how.refused_within
        and held == len(there) == stats.records,
    )


def _write(client: Client, number: int) -> Write:
    name, vector = f"w{number}", np.random.default_rng(number).normal(size=(1, DIMENSION)).astype(np.float32)
    start, error = time.monotonic(), None
    try:
        client.upsert(NAME, ids=[name], vectors=vector)
    except VitrailError as failed:
        error = failed
    return Write(name, time.monotonic() - start, error)


def _is_served(client: Client) -> bool:
    """Whether reading the store works again, too."""
    try:
        return bool(client.stats(NAME).records)
    except VitrailError:
        return False
