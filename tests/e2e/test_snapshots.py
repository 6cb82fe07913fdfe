"""A shard whose disk is lost, started with snapshots in a directory and in an object store that speaks S3."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.running import Running, eventually, scrape, wait_applied
from tests.shard.rows import clustered
from vitrail.client import Client, SearchResult

Start = Callable[..., Running]
RECORDS, MORE, DIMENSION = 400, 60, 16
WRITTEN = 'vitrail_snapshots_total{outcome="done",what="written"}'
READ = 'vitrail_snapshots_total{outcome="done",what="read"}'
NOT_READ = 'vitrail_snapshots_total{outcome="failed",what="read"}'
APPLIED = "vitrail_rows_applied_total"


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = request.getfixturevalue("s3") if request.param == "s3" else tmp_path
    return f"{place}/snapshots"


def figures(client: Client) -> dict[str, float]:
    """The metrics of the shard."""
    return scrape(client.stats("c").partitions[0].metrics_address)


def lose_the_disk(start: Start, url: str, *, spoil: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Write a snapshot, more records after it, lose what the shard has; returns its metrics once it is back."""
    vectors = clustered(RECORDS + MORE, DIMENSION)
    ids = [f"r{number}" for number in range(len(vectors))]
    running = start("--shards", "1", "--snapshots", url)
    with Client(running.address) as client:
        client.create_collection("c", dimension=DIMENSION)
        client.upsert("c", ids=ids[:RECORDS], vectors=vectors[:RECORDS])
        eventually(lambda: figures(client).get(WRITTEN, 0) >= 1)
        client.upsert("c", ids=ids[RECORDS:], vectors=vectors[RECORDS:])
        wait_applied(client, "c")
    running.stop()
    shutil.rmtree(running.data / "shards" / "0-of-1")
    spoil()
    running = start("--shards", "1", "--snapshots", url)
    with Client(running.address) as client:
        wait_applied(client, "c")
        results = client.search_batch("c", vectors=vectors, top_k=1)
        assert [result.hits[0].id for result in results if isinstance(result, SearchResult)] == ids
        return figures(client)


def test_a_shard_that_lost_its_disk_starts_from_a_snapshot(start: Start, url: str) -> None:
    """Of the log it is sent only what came after; it answers as before."""
    found = lose_the_disk(start, url)
    assert (found[READ], found[APPLIED]) == (1, MORE)


def test_a_damaged_snapshot_is_not_opened(start: Start, tmp_path: Path) -> None:
    """It is counted, and the partition built from the log."""

    def spoil() -> None:
        for path in (tmp_path / "snapshots").glob("1/0-1024/chunks/*"):
            data = np.fromfile(path, np.uint8)
            data[len(data) // 2] ^= 1
            data.tofile(path)

    found = lose_the_disk(start, str(tmp_path / "snapshots"), spoil=spoil)
    assert (found[NOT_READ], found[APPLIED]) == (1, RECORDS + MORE)


def test_a_url_that_nothing_here_can_open(tmp_path: Path) -> None:
    """Said at the start, in one line."""
    options = ["--index", "0", "--count", "1", "--log", "127.0.0.1:1", "--data", str(tmp_path / "data")]
    command = [sys.executable, "-m", "vitrail.cli.main", "shard", *options, "--snapshots", "dropbox://x"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: snapshots: ")
    assert "dropbox" in line
