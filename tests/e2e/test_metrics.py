import numpy as np

from tests.e2e.running import Running, eventually, scrape, wait_applied
from vitrail.client import Client


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
    assert coordinator["vitrail_embedder_loaded"] in (0, 1)

    def records_and_seqs() -> tuple[float, set[float]]:
        shards = [scrape(partition.metrics_address) for partition in stats.partitions]
        label = f'{{collection_uid="{created.uid}"}}'
        records = sum(shard.get(f"vitrail_partition_records{label}", 0) for shard in shards)
        return records, {shard.get(f"vitrail_partition_applied_seq{label}", 0) for shard in shards}

    eventually(lambda: records_and_seqs() == (3, {3}))
    for partition in stats.partitions:
        assert scrape(partition.metrics_address)["vitrail_search_seconds_count"] >= 1
