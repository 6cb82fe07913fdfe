import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running, eventually, wait_applied
from tests.shard.rows import clustered
from vitrail.client import Client, Record, Unavailable, VitrailError

Start = Callable[..., Running]


@pytest.fixture
def running(start: Start) -> Running:
    return start("--shards", "2")


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.address) as client:
        yield client


def test_a_killed_shard_is_declared_and_comes_back_whole(client: Client, running: Running) -> None:
    """With one of two shards killed, answers go on and say what they cover; once it is back, nothing is missing."""
    vectors = clustered(500, 16)
    client.create_collection("c", dimension=16)
    client.upsert("c", ids=[f"r{n}" for n in range(500)], vectors=vectors)
    wait_applied(client, "c")
    on_shard_1 = client.stats("c").partitions[1].records
    running.kill("shard-1")
    eventually(lambda: client.search("c", vector=vectors[0]).coverage.fraction < 1)
    result = client.search("c", vector=vectors[0], top_k=500)
    assert (result.coverage.shards_searched, result.coverage.shards_total) == (1, 2)
    assert result.coverage.records_searched == len(result.hits) == 500 - on_shard_1
    assert result.coverage.fraction == pytest.approx(1 - on_shard_1 / 500)
    assert set(result.coverage.unreachable) == {1}
    with pytest.raises(Unavailable):
        client.search("c", vector=vectors[0], min_coverage=1.0, timeout=1)
    # What is written meanwhile is there when the shard is.
    client.upsert("c", ids=["meanwhile"], vectors=np.ones((1, 16), np.float32))
    eventually(lambda: client.search("c", vector=vectors[0]).coverage.fraction == 1)
    wait_applied(client, "c")
    assert len(client.search("c", vector=vectors[0], top_k=600).hits) == 501


def test_a_stopped_shard_stops_nobody(client: Client, running: Running) -> None:
    """A shard that neither answers nor closes its connection costs the others nothing once it is found out."""
    vectors = clustered(300, 16)
    client.create_collection("c", dimension=16)
    client.upsert("c", ids=[f"r{n}" for n in range(300)], vectors=vectors)
    wait_applied(client, "c")
    process = running.children()["shard-0"]
    process.send_signal(signal.SIGSTOP)
    try:
        results = [client.search("c", vector=vectors[0], timeout=2) for _ in range(6)]
        assert all(result.coverage.shards_searched == 1 for result in results)
        assert all(result.hits for result in results)
        eventually(lambda: client.search("c", vector=vectors[0], timeout=2).timings.total < 0.5)
    finally:
        process.send_signal(signal.SIGCONT)
    eventually(lambda: client.search("c", vector=vectors[0]).coverage.fraction == 1)


def test_a_coordinator_killed_while_it_writes_loses_nothing_acknowledged(client: Client, running: Running) -> None:
    """Kill -9 in the middle of an ingestion of photos: what was acknowledged is there, once, and is searched."""
    client.create_collection("c", train_at=50)
    images = [(name, jpeg(tile)) for name, tile in tiles(96)]
    acknowledged: set[str] = set()
    killed = threading.Event()

    def ingest() -> None:
        for start in range(0, len(images), 8):
            batch = [Record(name, image=data) for name, data in images[start : start + 8]]
            try:
                result = client.upsert("c", batch, timeout=60)
            except VitrailError:
                continue
            acknowledged.update(record.id for record in batch if not result.errors)

    def kill_when_it_has_begun() -> None:
        eventually(lambda: len(acknowledged) >= 16)
        running.kill("server")
        killed.set()

    killer = threading.Thread(target=kill_when_it_has_begun)
    killer.start()
    ingest()
    killer.join()
    assert killed.is_set()
    stats = wait_applied(client, "c")
    stored = [record.id for record in client.list("c")]
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored)) == stats.records
    assert sum(partition.records for partition in stats.partitions) == stats.records
    assert {hit.id for hit in client.search("c", like=stored[0], top_k=1000, exact=True).hits} == set(stored[1:])


def test_a_shard_killed_while_it_follows_catches_up(client: Client, running: Running) -> None:
    """Kill -9 of a shard in the middle of an ingestion: it follows again, and holds each record once."""
    client.create_collection("c", dimension=16, train_at=200)
    for round_ in range(40):
        ids = [f"r{round_ % 20}-{n}" for n in range(50)]  # the second twenty rounds replace the first
        client.upsert("c", ids=ids, vectors=clustered(50, 16, seed=round_))
        if round_ in (10, 25):
            running.kill("shard-0")
    stats = wait_applied(client, "c")
    assert stats.records == sum(partition.records for partition in stats.partitions) == 1000
    hits = client.search("c", vector=np.ones(16), top_k=1000, exact=True).hits
    assert len({hit.id for hit in hits}) == len(hits) == 1000
    assert "deleted a partition" not in running.log.read_text()


def test_searching_goes_on_while_the_coordinator_restarts(client: Client, running: Running) -> None:
    """The SDK's retries carry a search over a coordinator that was killed and started again."""
    client.create_collection("c", dimension=2)
    client.upsert("c", [Record("a", vector=[1.0, 0.0])])
    wait_applied(client, "c")
    running.kill("server")
    eventually(lambda: "server" in running.children())
    with Client(running.address, retries=100) as patient:
        result = patient.search("c", vector=[1.0, 0.0], timeout=60)
    assert [hit.id for hit in result.hits] == ["a"]
