import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import psutil
import pytest

from tests.e2e.running import PATIENCE, Running, eventually, scrape, wait_applied
from vitrail.cli.bench.callers import Callers, Load
from vitrail.cli.bench.calls import Asked
from vitrail.client import Client
from vitrail.rpc.protocol import PROTOCOL

SCRAPE_SECONDS = 10.0
"""That Prometheus waits."""
FLOOD = 3000.0
"""Searches a second, of which some hundred can be answered where eight may wait."""


def test_each_process_serves_its_metrics(client: Client, name: str, cluster: Running) -> None:
    """Coordinator and shards count what they did: calls by method and code, steps, records, places in the log."""
    created = client.create_collection(name, dimension=4)
    client.upsert(name, ids=["a", "b", "c"], vectors=np.eye(3, 4))
    stats = wait_applied(client, name)
    client.search(name, vector=[1, 0, 0, 0])
    labels = 'grpc_method="Search",grpc_service="vitrail.v1.SearchService",grpc_type="unary"'
    coordinator = scrape(stats.metrics_address)
    assert coordinator[f"grpc_server_started_total{{{labels}}}"] >= 1
    ok = 'grpc_code="OK",' + labels
    assert coordinator[f"grpc_server_handled_total{{{ok}}}"] >= 1
    assert coordinator['vitrail_step_seconds_count{step="fanout"}'] >= 1
    assert coordinator['vitrail_batch_size_items_count{queue="search"}'] >= 1
    assert coordinator["vitrail_log_followers"] == 2
    for partition in stats.partitions:
        assert coordinator[f'vitrail_replica_reachable{{address="{partition.address}"}}'] == 1
        place = f'address="{partition.address}",layout="2",shard="{partition.shard}"'
        assert coordinator[f"vitrail_replica_seconds_count{{{place}}}"] >= 1
    assert coordinator["vitrail_embedder_loaded"] in (0, 1)
    assert coordinator["vitrail_store_reachable"] == 1
    eventually(
        lambda: (
            scrape(stats.metrics_address).get(
                f'vitrail_collection_seq{{collection="{name}",collection_uid="{created.uid}"}}'
            )
            == 3
        )
    )

    def records_and_seqs() -> tuple[float, set[float]]:
        shards = [scrape(partition.metrics_address) for partition in stats.partitions]
        label = f'{{collection_uid="{created.uid}"}}'
        records = sum(shard.get(f"vitrail_partition_records{label}", 0) for shard in shards)
        return records, {shard.get(f"vitrail_partition_applied_seq{label}", 0) for shard in shards}

    eventually(lambda: records_and_seqs() == (3, {3}))
    for partition in stats.partitions:
        shard = scrape(partition.metrics_address)
        assert shard["vitrail_search_seconds_count"] == shard["vitrail_search_wait_seconds_count"] >= 1
        assert 0 < shard["vitrail_disk_free_bytes"] < shard["vitrail_disk_bytes"]
    for address in (stats.metrics_address, *(partition.metrics_address for partition in stats.partitions)):
        samples = scrape(address)
        assert not [name for name in samples if "_created" in name]
        assert samples[f'vitrail_build_info{{protocol="{PROTOCOL}",version="{version("vitrail")}"}}'] == 1
        assert (
            0
            < samples["vitrail_anonymous_bytes"]
            < samples["vitrail_memory_limit_bytes"]
            <= psutil.virtual_memory().total
        )


def test_a_scrape_is_answered_while_overloaded(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a coordinator that refuses callers, since its queue is full: within half of what Prometheus waits."""
    monkeypatch.setenv("VITRAIL_QUEUE", "8")
    cluster = start("--shards", "1")
    queries = np.random.default_rng(7).standard_normal((100, 256)).astype(np.float32)
    with Client(cluster.address) as client, Callers(cluster.address) as callers:
        client.create_collection("c", dimension=256)
        client.upsert("c", ids=[str(row) for row in range(len(queries))], vectors=queries)
        stats = wait_applied(client, "c")
        callers.begin(Asked("c", queries), Load(rate=FLOOD, seconds=PATIENCE))
        refused = 'vitrail_refused_total{queue="search"}'
        eventually(lambda: scrape(stats.metrics_address)[refused] > 100)
        took: list[float] = []
        seen = [0.0]
        while len(took) < 20 or seen[-1] < seen[1] + 100:
            begin = time.monotonic()
            seen.append(scrape(stats.metrics_address)[refused])
            took.append(time.monotonic() - begin)
        callers.stop()
        answered = callers.end()
    assert any("RESOURCE_EXHAUSTED" in error for error in answered.answers.errors)
    assert max(took) < SCRAPE_SECONDS / 2
