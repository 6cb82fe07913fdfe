"""Replicas and several coordinators, as real processes."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.running import Running, eventually, wait_applied
from tests.e2e.searching import Searching
from tests.postgres import Postgres, running_postgres
from tests.shard.rows import clustered
from vitrail.client import Client, FailedPrecondition, Unavailable, VitrailError

Start = Callable[..., Running]
RECORDS, DIMENSION = 400, 16


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def filled(client: Client) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    vectors = clustered(RECORDS, DIMENSION)
    client.create_collection("c", dimension=DIMENSION)
    client.upsert("c", ids=[f"r{number}" for number in range(RECORDS)], vectors=vectors)
    wait_applied(client, "c")
    return vectors


def test_what_happens_to_one_replica_no_caller_sees(start: Start) -> None:
    """Killed with -9, then the other one stopped: every answer covers everything; what was killed comes back."""
    running = start("--shards", "1", "--replicas", "2")
    with Client(running.address) as client:
        vectors = filled(client)
        stats = client.stats("c")
        assert [(p.shard, p.shards, p.records) for p in stats.partitions] == [(0, 1, RECORDS)] * 2
        searching = Searching(running.address, "c", vectors, timeout=5)
        searching.go_on(50)
        one, other = running.shards()
        one.kill()
        eventually(lambda: len(running.shards()) == 2 and all(p.reachable for p in client.stats("c").partitions))
        wait_applied(client, "c")
        other.send_signal(signal.SIGSTOP)
        try:
            searching.go_on(100)
        finally:
            other.send_signal(signal.SIGCONT)
        searching.stop()
    assert_right(searching)


def test_reading_what_was_written(start: Start) -> None:
    """With the `seq` of a write a search always finds it; with one that never was it is refused."""
    running = start("--shards", "2")
    with Client(running.address) as client:
        filled(client)
        for number in range(100):
            vector = np.full(DIMENSION, number + 1.0, np.float32)
            vector[0] = -number
            written = client.upsert("c", ids=["mine"], vectors=vector[np.newaxis])
            seq = written.seq
            result = client.search("c", vector=vector, top_k=1, min_seq=written if number % 2 else seq)
            assert (result.hits[0].id, result.index.seq >= seq) == ("mine", True)
            assert result.hits[0].score == pytest.approx(1, abs=1e-3)
        with pytest.raises(FailedPrecondition, match="min_seq"):
            client.search("c", vector=vector, min_seq=seq + 1)


def test_two_coordinators_on_one_store(start: Start, postgres: Postgres, tmp_path: Path) -> None:
    """What is written through one is found through the other, and each serves when the other is gone."""
    url = postgres.new_database()
    running = start("--shards", "2", "--store", url)
    with Client(running.address) as client:
        vectors = filled(client)
        shards = ",".join(sorted({p.address for p in client.stats("c").partitions}))
        command = [sys.executable, "-m", "vitrail.cli.main", "server", "--store", url, "--shards", shards]
        port = free_port()
        with (tmp_path / "second.log").open("wb") as log:
            second = subprocess.Popen([*command, "--port", str(port), "--metrics-port", "0"], stderr=log)
        try:
            with Client(f"127.0.0.1:{port}") as other:
                eventually(lambda: is_there(other))
                assert other.search("c", vector=vectors[7], top_k=1).hits[0].id == "r7"
                new = np.eye(1, DIMENSION, dtype=np.float32)
                seq = other.upsert("c", ids=["new"], vectors=new).seq
                assert client.search("c", vector=new[0], top_k=1, min_seq=seq).hits[0].id == "new"
                client.create_collection("d", dimension=3)
                eventually(lambda: "d" in [collection.name for collection in other.list_collections()])
                assert other.get("c", "r3").seq > 0
        finally:
            second.terminate()
            assert second.wait(30) == 0


def test_another_number_of_shards_takes_over(start: Start, tmp_path: Path) -> None:
    """From 2 to 3 while it runs, back to 2 at a restart: no query fails, and every answer covers everything."""
    running = start("--shards", "2")
    with Client(running.address) as client:
        vectors = filled(client)
        searching = Searching(running.address, "c", vectors, timeout=5)
        searching.go_on(10)
        said = json.loads(vitrail("shards", "--set", "3", "--json", "--address", running.address))
        assert said["wanted"] == 3
        is_handed_over(client, tmp_path, before=2, count=3)
        searching.go_on(50)
        searching.stop()
        assert_right(searching)
        table = vitrail("shards", "--address", running.address)
        assert table.splitlines()[0].strip() == "3 shards serve"
    running.stop()
    running = start("--shards", "2")
    with Client(running.address) as client:
        searching = Searching(running.address, "c", vectors, timeout=5)
        assert {process.shards for process in client.shards().processes} >= {3}
        is_handed_over(client, tmp_path, before=3, count=2)
        searching.go_on(50)
        searching.stop()
        assert_right(searching)
    running.stop()
    running = start()
    with Client(running.address) as client:
        is_handed_over(client, tmp_path, before=3, count=2)


def is_handed_over(client: Client, data: Path, before: int, count: int) -> None:
    """Wait until a layout serves and the one before it is gone, with all that it held."""
    eventually(partial(serve, client, count))
    eventually(partial(are_gone, data / "data" / "shards", before))
    eventually(lambda: {process.shards for process in client.shards().processes} == {count})
    shards = client.shards()
    assert (shards.serving, shards.wanted) == (count, count)
    assert [(p.shard, p.failure, p.behind) for p in shards.processes] == [(index, "", 0) for index in range(count)]
    assert sum(process.records for process in shards.processes) == RECORDS


def test_a_coordinator_that_starts_while_the_store_is_away(start: Start) -> None:
    """It searches what shards hold, by what they know of collections; writes are refused until the store is back."""
    with running_postgres() as server:
        running = start("--shards", "2", "--store", server.new_database())
        with Client(running.address, timeout=10) as client:
            vectors = filled(client)
            server.stop()
            running.kill("server")
            eventually(lambda: is_found(client, vectors[7], "r7"))
            assert [collection.name for collection in client.list_collections()] == ["c"]
            with Client(running.address, retries=0) as hasty:
                assert is_refused(hasty)
            server.start()
            new = np.eye(1, DIMENSION, dtype=np.float32)
            eventually(lambda: not is_refused(client))
            seq = client.upsert("c", ids=["new"], vectors=new).seq
            assert client.search("c", vector=new[0], min_seq=seq, top_k=1).hits[0].id == "new"
            assert len(running.shards()) == 2
            stats = wait_applied(client, "c")
            assert sum(partition.records for partition in stats.partitions) == RECORDS + 1


def test_a_store_that_is_away(start: Start) -> None:
    """Searches go on, writes are refused at once, and everything heals by itself; nothing acknowledged is lost."""
    with running_postgres() as server:
        running = start("--shards", "2", "--store", server.new_database())
        with Client(running.address, timeout=10) as client:
            vectors = filled(client)
            searching = Searching(running.address, "c", vectors, timeout=5)
            acknowledged = []
            for end in (server.stop, server.kill):
                end()
                until = time.monotonic() + 3
                while time.monotonic() < until:
                    began = time.monotonic()
                    with Client(running.address, retries=0) as hasty:
                        eventually(partial(is_refused, hasty))
                    assert time.monotonic() - began < 5
                server.start()
                name = f"after-{end.__name__}"
                seq = client.upsert("c", ids=[name], vectors=np.ones((1, DIMENSION), np.float32)).seq
                acknowledged.append(name)
                assert client.search("c", vector=vectors[0], min_seq=seq).coverage.fraction == 1
            searching.stop()
            assert_right(searching)
            assert all(client.get("c", name).id == name for name in acknowledged)


def assert_right(searching: Searching) -> None:
    """Every answer covered everything, and found the record that it asked with."""
    assert not searching.faults
    firsts = [seen.first for seen in searching.seen]
    assert firsts == [f"r{number % RECORDS}" for number in range(len(firsts))]


def vitrail(*words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "vitrail.cli.main", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def serve(client: Client, count: int) -> bool:
    return client.shards().serving == count


def are_gone(directory: Path, layout: int) -> bool:
    return not list(directory.glob(f"*-of-{layout}*"))


def is_there(client: Client) -> bool:
    try:
        return client.stats("c").records == RECORDS
    except VitrailError:
        return False


def is_found(client: Client, vector: np.ndarray[tuple[int], np.dtype[np.float32]], name: str) -> bool:
    """Whether a search finds a record and covers everything, once somebody answers."""
    try:
        result = client.search("c", vector=vector, top_k=1)
    except VitrailError:
        return False
    return result.coverage.fraction == 1 and result.hits[0].id == name


def is_refused(client: Client) -> bool:
    """Whether a write is, since the store is away: it may take a moment to end."""
    try:
        client.upsert("c", ids=["r0"], vectors=clustered(RECORDS, DIMENSION)[:1])
    except Unavailable:
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
