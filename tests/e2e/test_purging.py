"""Deleting for good, with real processes: no bytes of what was deleted are left, whoever is away meanwhile."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest

from tests.e2e.running import Running, eventually, scrape, wait_applied, wait_trained
from tests.e2e.test_snapshots import WRITTEN
from tests.postgres import running_postgres
from tests.shard.rows import clustered
from vitrail.client import Client, Record

Start = Callable[..., Running]
DIMENSION = 64
ERASED = [f"erased-{n}" for n in range(40)]


def records(names: list[str], seed: int) -> tuple[list[Record], list[bytes]]:
    """Records, and all bytes by which one could know them: id, attribute, uri, vector in both precisions."""
    vectors = clustered(len(names), DIMENSION, seed=seed)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owners = [f"owner-of{seed:02}{n:04}!#, which is longer than a few words" for n in range(len(names))]
    made = [
        Record(name, vector=vector, attributes={"owner": owner}, uri=f"uri-{name}-{seed}")
        for name, vector, owner in zip(names, vectors, owners, strict=True)
    ]
    known = [text.encode() for one in made for text in (str(one.attributes["owner"]), str(one.uri))]
    known += [owner.encode()[8:16][::-1] for owner in owners]  # as words of a column
    known += [vector.astype(kind).tobytes() for vector in vectors for kind in ("<f4", "<f2")]
    return made, known


def found(directory: Path, needles: list[bytes]) -> dict[Path, list[bytes]]:
    """Where in the files of a directory some bytes lie."""
    places = {}
    for path in filter(Path.is_file, directory.rglob("*")):
        content = b""
        with contextlib.suppress(FileNotFoundError):  # what is deleted meanwhile holds nothing
            content = path.read_bytes()
        if here := [needle for needle in needles if needle in content]:
            places[path] = here
    return places


def vitrail(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitrail.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("train_at", [100_000, pytest.param(500, marks=pytest.mark.long)])
def test_proof_of_erasure(start: Start, tmp_path: Path, train_at: int) -> None:
    """Store, write-ahead log, partitions and logs hold no byte of what was deleted, replaced, or dropped."""
    running = start("--shards", "2", "--replicas", "2")
    with Client(running.address, timeout=60) as client:
        for name in ("c", "dropped"):
            client.create_collection(name, dimension=DIMENSION, train_at=train_at)
        vectors = clustered(3000, DIMENSION)
        client.upsert("c", ids=[f"kept-{n}" for n in range(3000)], vectors=vectors)
        written, secrets = records(ERASED, seed=1)
        client.upsert("c", written)
        replaced, before = records(["replaced"], seed=2)
        client.upsert("c", replaced)
        others, of_others = records(["of-another"], seed=3)
        client.upsert("dropped", others)
        secrets += [*before, *of_others, *(name.encode() for name in ERASED), b"of-another"]
        wait_applied(client, "c")
        if train_at < 1000:
            wait_trained(client, "c")
        running.stop()  # publishes, so that every place that there is has it
    everywhere = found(tmp_path, secrets)
    assert {needle for needles in everywhere.values() for needle in needles} == set(secrets)
    assert {path.name.split("-")[0] for path in everywhere} >= {"records.sqlite", "vectors", "documents", "column"}
    running = start("--shards", "2", "--replicas", "2")
    with Client(running.address, timeout=60) as client:
        again, kept = records(["replaced"], seed=4)
        client.upsert("c", again)
        seq = client.delete("c", ids=ERASED).seq
        client.delete_collection("dropped")
        assert found(tmp_path, secrets)
        result = vitrail("purge", "c", "--json", "--address", running.address)
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads(result.stdout)
        assert (report["seq"], report["done"], report["remains"], report["notes"]) == (seq, True, [], [])
        assert found(tmp_path, secrets) == {}
        assert found(tmp_path, kept)
        assert client.stats("c").records == 3001
        assert client.search("c", vector=vectors[7], top_k=1).hits[0].id == "kept-7"
        assert client.purge("c").done  # once more, and nothing happens
    running.stop()
    assert found(tmp_path, secrets) == {}


@pytest.mark.long
def test_proof_of_erasure_on_postgresql(start: Start, tmp_path: Path) -> None:
    """In all of its files, and in its write-ahead log once that is let go of, as the report says it must be."""
    erased = ERASED[:5]  # there is much to look through
    with running_postgres() as server:
        url = server.new_database()
        with psycopg.connect(url, autocommit=True) as administrator:
            administrator.execute("ALTER SYSTEM SET wal_recycle = off")
            administrator.execute("SELECT pg_reload_conf()")
            running = start("--shards", "1", "--store", url)
            with Client(running.address, timeout=60) as client:
                client.create_collection("c", dimension=DIMENSION)
                written, secrets = records(erased, seed=1)
                others, kept = records([f"kept-{n}" for n in range(1000)], seed=2)
                client.upsert("c", [*written, *others])
                wait_applied(client, "c")
                administrator.execute("CHECKPOINT")
                secrets += [name.encode() for name in erased]
                everywhere = found(server.directory, secrets)
                assert {path.parent.name for path in everywhere} > {"pg_wal"}
                assert len(set().union(*everywhere.values())) >= 4 * len(erased)  # id, owner, uri, vector
                client.delete("c", ids=erased)
                report = client.purge("c")
                assert (report.done, [note.split(",")[0] for note in report.notes]) == (
                    True,
                    ["PostgreSQL's write-ahead log"],
                )
                administrator.execute("SELECT pg_switch_wal()")
                administrator.execute("CHECKPOINT")
                assert found(server.directory, secrets) == found(tmp_path, secrets) == {}
                assert found(server.directory, kept[:1])


@pytest.mark.long
def test_proof_of_erasure_in_snapshots(start: Start, tmp_path: Path) -> None:
    """They are gone with the first one that is written an hour after the one that had them last."""
    snapshots = tmp_path / "snapshots"
    options = ("--shards", "1", "--snapshots", str(snapshots))
    running = start(*options)
    with Client(running.address, timeout=60) as client:
        client.create_collection("c", dimension=DIMENSION)
        written, secrets = records(ERASED, seed=1)
        others, kept = records(["kept"], seed=2)
        client.upsert("c", [*written, *others])
        secrets += [name.encode() for name in ERASED]
        wait_snapshot(client)
        assert found(snapshots, secrets)
        client.delete("c", ids=ERASED)
        report = client.purge("c")
        assert (report.done, [note.split(" keep ")[0] for note in report.notes]) == (True, ["snapshots of partitions"])
        assert {path.relative_to(tmp_path).parts[0] for path in found(tmp_path, secrets)} == {"snapshots"}
    running.stop()
    running = start(*options)
    with Client(running.address) as client:
        wait_snapshot(client)
    running.stop()
    (manifest,) = snapshots.rglob("manifest.json")
    listing = json.loads(manifest.read_text())
    assert listing["unused"]
    listing["unused"] = {name: moment - 3601 for name, moment in listing["unused"].items()}
    manifest.write_text(json.dumps(listing))
    running = start(*options)
    with Client(running.address) as client:
        wait_snapshot(client)
        assert found(tmp_path, secrets) == {}
        assert found(snapshots, kept)


def wait_snapshot(client: Client) -> None:
    """Wait until the shard has written its first snapshot since it was started."""
    (partition,) = client.stats("c").partitions
    eventually(lambda: WRITTEN in scrape(partition.metrics_address))


def test_a_process_that_is_away_is_told_of(start: Start) -> None:
    """The report names it; it is built anew when it comes back, and then nothing is left there either."""
    running = start("--shards", "1", "--replicas", "2")
    with Client(running.address, timeout=60) as client:
        client.create_collection("c", dimension=DIMENSION)
        written, secrets = records(["mine"], seed=1)
        client.upsert("c", [*written, *records(["kept"], seed=2)[0]])
        wait_applied(client, "c")
        one = running.shards()[0]
        one.suspend()
        try:
            eventually(lambda: any(not each.reachable for each in client.stats("c").partitions))
            client.delete("c", ids=["mine"])
            report = client.purge("c", timeout=5)
            assert not report.done
            assert [each.why for each in report.remains] == ["no answer in time"]
        finally:
            one.resume()
        assert client.purge("c", timeout=60).done
        assert found(running.data, secrets) == {}
