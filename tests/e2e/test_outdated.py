"""Shards that hold what the store no longer knows of, with real processes on both databases: detected, and rebuilt."""

import contextlib
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from tests.e2e.parts import Parts, Place, wait_serving
from tests.e2e.running import eventually, scrape, wait_applied
from tests.postgres import Postgres, running_postgres
from tests.shard.rows import clustered
from vitrail.client import Client, FailedPrecondition, UpsertResult

DIMENSION = 64
HORIZON = 3.0
"""Seconds for which the store remembers what was deleted."""
TOMBSTONES = "SELECT count(*) FROM records WHERE deleted"


class Database(Protocol):
    """Where a store is, which can be backed up and restored as those who administer it do."""

    location: str

    def back_up(self) -> None: ...

    def restore(self, parts: Parts) -> None:
        """As it was backed up, while shards run."""

    def tombstones(self) -> int: ...


class Sqlite:
    """Backed up while it is used, and replaced while nobody uses it."""

    def __init__(self, directory: Path) -> None:
        self.location = str(directory / "store")
        self._file, self._backup = directory / "store/records.sqlite", directory / "backup.sqlite"

    def back_up(self) -> None:
        source, target = sqlite3.connect(self._file), sqlite3.connect(self._backup)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)

    def restore(self, parts: Parts) -> None:
        parts.coordinators[0].end()
        for path in self._file.parent.glob(f"{self._file.name}*"):
            path.unlink()
        self._backup.rename(self._file)
        parts.start_coordinator()

    def tombstones(self) -> int:
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            return int(connection.execute(TOMBSTONES).fetchone()[0])


class Postgresql:
    """Its directory is copied and replaced while it is stopped; coordinators are not."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.location = server.new_database()
        self._server, self._backup = server, directory / "backup"

    def back_up(self) -> None:
        self._server.stop()
        subprocess.run(["cp", "-a", self._server.directory, self._backup], check=True)  # with their owner
        self._server.start()

    def restore(self, parts: Parts) -> None:
        self._server.stop()
        shutil.rmtree(self._server.directory)
        self._backup.rename(self._server.directory)
        self._server.start()

    def tombstones(self) -> int:
        with psycopg.connect(self.location) as connection:
            (count,) = connection.execute(TOMBSTONES).fetchone() or (0,)
            return int(count)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Sqlite(tmp_path)
    else:
        with running_postgres() as server:
            yield Postgresql(server, tmp_path)


def assert_right(client: Client, written: UpsertResult, expected: set[str]) -> None:
    """A search that must see a write finds what there is, or says that it does not cover all; soon it does."""

    def is_covered() -> bool:
        result = client.search("c", vector=[1.0] * DIMENSION, top_k=1000, exact=True, min_seq=written)
        if result.coverage.fraction == 1:
            assert {hit.id for hit in result.hits} == expected
        return result.coverage.fraction == 1

    eventually(is_covered)
    wait_applied(client, "c")
    assert all(is_covered() for _ in range(50))  # whichever replica is asked


def rebuilds(client: Client) -> dict[str, float]:
    """How often each process built a partition anew, by its address."""
    partitions = client.stats("c").partitions
    return {each.address: scrape(each.metrics_address)["vitrail_partition_rebuilds_total"] for each in partitions}


def test_a_replica_that_was_cut_off_for_longer_than_the_horizon(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstones that it was to be sent are gone: it is built anew, and no deleted record comes back."""
    monkeypatch.setenv("VITRAIL_HORIZON_HOURS", str(HORIZON / 3600))
    vectors = clustered(200, DIMENSION)
    with Parts(tmp_path / "parts", database.location, [1], replicas=2) as parts:
        parts.start_coordinator()
        parts.start_layout(1)
        with Client(parts.address, timeout=60, retries=20) as client:
            client.create_collection("c", dimension=DIMENSION)
            client.upsert("c", ids=[f"r{n}" for n in range(200)], vectors=vectors)
            wait_serving(client, 1)
            wait_applied(client, "c")
            cut_off = parts.shards[Place(0, 1, 1)]
            cut_off.send(signal.SIGSTOP)
            parts.coordinators[0].end()  # so that nothing is on its way to it
            parts.start_coordinator()
            client.delete("c", ids=[f"r{n}" for n in range(100)])
            eventually(lambda: database.tombstones() == 0)
            written = client.upsert("c", ids=["new"], vectors=vectors[:1])
            cut_off.send(signal.SIGCONT)
            assert_right(client, written, {"new", *(f"r{n}" for n in range(100, 200))})
            assert {address: count > 0 for address, count in rebuilds(client).items()} == {
                parts.shards[Place(0, 1, 0)].address: False,
                cut_off.address: True,
            }
            assert len({each.digest for each in client.stats("c").partitions}) == 1


def test_a_store_that_was_restored_from_an_older_backup(database: Database, tmp_path: Path) -> None:
    """And written to since: what shards hold of the history that is gone, nobody finds, whatever its numbers."""
    vectors = clustered(100, DIMENSION)
    with Parts(tmp_path / "parts", database.location, [2]) as parts:
        parts.start_coordinator()
        parts.start_layout(2)
        with Client(parts.address, timeout=60, retries=20) as client:
            client.create_collection("c", dimension=DIMENSION)
            client.upsert("c", ids=[f"r{n}" for n in range(50)], vectors=vectors[:50])
            wait_serving(client, 2)
            database.back_up()
            lost = client.upsert("c", ids=[f"lost{n}" for n in range(30)], vectors=vectors[50:80])
            client.delete("c", ids=[f"r{n}" for n in range(10)])
            wait_applied(client, "c")
            database.restore(parts)
            new = client.upsert("c", ids=[f"new{n}" for n in range(45)], vectors=vectors[55:])
            assert new.seq > lost.seq > 50  # to go by the numbers alone would not do
            assert_right(client, new, {*(f"r{n}" for n in range(50)), *(f"new{n}" for n in range(45))})
            assert list(rebuilds(client).values()) == [1, 1]
            with pytest.raises(FailedPrecondition, match="does not know the write"):
                client.search("c", vector=vectors[0], min_seq=lost)
