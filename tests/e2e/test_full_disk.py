"""A shard that may write no further, as on a full disk: it answers, says why it is behind, and catches up."""

import resource
from collections.abc import Callable

import numpy as np

from tests.e2e.running import Running, eventually, scrape, wait_applied, wait_trained
from tests.shard.rows import clustered
from vitrail.client import Client, PartitionStats

Start = Callable[..., Running]
DIMENSION = 64


def limit(running: Running, size: int) -> None:
    """Let no file of the shard, or of what it starts, grow beyond this."""
    running.children()["shard-0"].rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def upsert(client: Client, first: int, count: int) -> None:
    ids = [f"r{first + n}" for n in range(count)]
    client.upsert("c", ids=ids, vectors=clustered(count, DIMENSION, seed=first))


def the_partition(client: Client) -> PartitionStats:
    (partition,) = client.stats("c").partitions
    return partition


def is_in_trouble(client: Client, uid: int) -> bool:
    metrics = scrape(the_partition(client).metrics_address)
    return metrics[f'vitrail_partition_in_trouble{{collection_uid="{uid}"}}'] == 1


def found(client: Client) -> int:
    result = client.search("c", vector=np.ones(DIMENSION), top_k=1000, exact=True)
    assert len({hit.id for hit in result.hits}) == len(result.hits)
    return len(result.hits)


def test_a_full_disk(start: Start) -> None:
    """While rows come, while an index is built and while a state is published; then there is room again."""
    running = start("--shards", "1")
    with Client(running.address) as client:
        uid = client.create_collection("c", dimension=DIMENSION, train_at=1_000_000).uid
        upsert(client, 0, 400)
        wait_applied(client, "c")
        limit(running, 400)
        client.delete("c", ids=[f"r{n}" for n in range(10)])  # takes no room before it is published
        wait_applied(client, "c")
        eventually(lambda: "publishing: " in the_partition(client).busy)
        upsert(client, 400, 400)
        eventually(lambda: "applying: " in the_partition(client).busy)
        client.update_collection("c", train_at=200)
        eventually(lambda: "building: " in the_partition(client).busy)
        assert "File too large" in the_partition(client).busy
        assert the_partition(client).records == found(client) == 390
        eventually(lambda: is_in_trouble(client, uid))
        limit(running, resource.RLIM_INFINITY)
        wait_applied(client, "c")
        wait_trained(client, "c")
        eventually(lambda: the_partition(client).busy == "" and not is_in_trouble(client, uid))
        assert the_partition(client).records == found(client) == 790
        running.kill("shard-0")
        wait_applied(client, "c")
        eventually(lambda: found(client) == 790)
    directory = running.data / "shards" / "0-of-1" / str(uid)
    assert sorted(path.name.split("-")[0] for path in directory.iterdir()) == ["live", "main", "manifest.json", "table"]
