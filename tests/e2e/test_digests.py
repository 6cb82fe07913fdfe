"""Digests of real processes: the same everywhere, and where they are not, whoever is wrong is left out and rebuilt."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.e2e.running import Running, eventually, scrape, wait_applied
from tests.e2e.searching import Searching
from tests.e2e.test_replicas import assert_right, filled, vitrail
from tests.shard.rows import clustered, collection, delete, upsert
from vitrail.client import Client, PartitionStats, Record
from vitrail.rpc.slots import SLOTS
from vitrail.shard.partition import Partition

Start = Callable[..., Running]
RECORDS, DIMENSION = 400, 16


def test_replicas_have_the_same_digest(start: Start) -> None:
    """After writes of every kind, while one of them is killed again and again; and `vitrail stats` says so."""
    running = start("--shards", "2", "--replicas", "2")
    with Client(running.address, retries=20) as client:
        client.create_collection("c", dimension=DIMENSION, train_at=200)
        random = np.random.default_rng(7)
        for round_ in range(6):
            ids = [f"r{number}" for number in random.choice(2000, 500, replace=False)]
            attributes = [{"n": int(number)} for number in random.integers(0, 50, 500)]
            client.upsert("c", ids=ids, vectors=clustered(500, DIMENSION, seed=round_), attributes=attributes)
            running.shards()[round_ % 4].kill()
            client.upsert("c", [Record(name, attributes={"n": 99}) for name in ids[:100]])
            client.delete("c", ids=ids[50:150])
            eventually(lambda: len(running.shards()) == 4)
        client.delete("c", filter="n < 10")
        wait_applied(client, "c")
        shown = digests(client)
        assert [len(set(of_one)) for of_one in shown.values()] == [1, 1]
        assert shown.keys() == {0, 1}
        client.upsert("c", [Record(ids[0], attributes={"n": 1})])
        wait_applied(client, "c")
        assert sum(digests(client)[shard] != shown[shard] for shard in shown) == 1
        said = json.loads(vitrail("stats", "c", "--json", "--address", running.address))
        table = vitrail("stats", "c", "--address", running.address)
        assert all(each["digest"] in table and not each["quarantined"] for each in said["partitions"])


def test_a_replica_that_holds_other_records_is_left_out_and_rebuilt(start: Start, tmp_path: Path) -> None:
    """One record is gone and another one changed, behind everybody's back: no answer is wrong once that is seen."""
    running = start("--shards", "1", "--replicas", "2")
    with Client(running.address) as client:
        vectors = filled(client)
        uid = client.get_collection("c").uid
    running.stop()
    damage(tmp_path / "data" / "shards" / "0-of-1-replica-1" / str(uid), uid, vectors)
    running = start("--shards", "1", "--replicas", "2")
    with Client(running.address) as client:
        eventually(lambda: any(partition.quarantined for partition in partitions(client)))
        searching = Searching(running.address, "c", vectors, timeout=5)
        (state,) = {process.failure for process in client.shards().processes} - {""}
        assert state.startswith("quarantined")
        eventually(lambda: not any(partition.quarantined for partition in partitions(client)))
        eventually(lambda: all(process.failure == "" for process in client.shards().processes))
        searching.go_on(100)
        searching.stop()
        assert_right(searching)
        wait_applied(client, "c")
        assert len({partition.digest for partition in partitions(client)}) == 1
        assert [partition.records for partition in partitions(client)] == [RECORDS] * 2
        coordinator = scrape(client.stats("c").metrics_address)
        assert coordinator["vitrail_digest_mismatches_total"] >= 1
        assert coordinator["vitrail_digest_suspects"] == 0


def damage(directory: Path, uid: int, vectors: NDArray[np.float32]) -> None:
    """Delete one record of a partition and change another one, so that it still opens as it was published."""
    partition = Partition(directory, collection(DIMENSION, uid=uid), (0, SLOTS))
    assert (partition.rebuilt, partition.view.records) == ("", RECORDS)
    seq = partition.cursor.seq
    partition.apply([delete("r5", seq), upsert("r9", vectors[10], seq)])
    partition.publish()
    partition.close()


def partitions(client: Client) -> tuple[PartitionStats, ...]:
    return client.stats("c").partitions


def digests(client: Client) -> dict[int, list[str]]:
    """By shard, those of its replicas."""
    found: dict[int, list[str]] = {}
    for partition in partitions(client):
        assert partition.digest
        found.setdefault(partition.shard, []).append(partition.digest)
    return found
