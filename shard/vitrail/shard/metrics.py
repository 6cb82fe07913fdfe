"""Every metric of the shard. The standard `grpc_server_*` ones stand in vitrail.rpc.server."""

import contextlib
import shutil
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from vitrail.shard.partition import Partition

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

SEARCH_SECONDS = Histogram("vitrail_search_seconds", "Time in the index, a group of queries.", buckets=SECONDS)
SEARCH_WAIT_SECONDS = Histogram("vitrail_search_wait_seconds", "Time that a group waited for it.", buckets=SECONDS)
SEARCH_QUERIES = Histogram("vitrail_search_batch_queries", "Queries in one batch.", buckets=SIZES)
EXPIRED = Counter("vitrail_search_expired", "Groups that nobody waited for any more.")

ROWS_APPLIED = Counter("vitrail_rows_applied", "Rows of the log that were applied.")
LOG_CONNECTED = Gauge("vitrail_log_connected", "1 while the log can be followed.")
READY = Gauge("vitrail_ready", "1 once every partition has caught up.")

RECORDS = Gauge("vitrail_partition_records", "Live records.", ["collection_uid"])
TAIL = Gauge("vitrail_partition_tail_rows", "Rows that are searched exactly.", ["collection_uid"])
SEQ = Gauge("vitrail_partition_applied_seq", "Applied up to here.", ["collection_uid"])
REACHED = Gauge(
    "vitrail_partition_reached_seq", "The last row applied, of a pass that need not be complete.", ["collection_uid"]
)
HEAD = Gauge("vitrail_partition_log_seq", "The end of the log, as it was last heard.", ["collection_uid"])
TRAINED = Gauge("vitrail_partition_trained", "1 where there is a trained index.", ["collection_uid"])
BUILDING = Gauge("vitrail_partition_building", "1 while an index is trained or rows are compacted.", ["collection_uid"])
BEHIND = Gauge("vitrail_partition_in_trouble", "1 while rows cannot be written, as on a full disk.", ["collection_uid"])
DEAD = Gauge("vitrail_partition_dead_rows", "Rows deleted or replaced that still take room.", ["collection_uid"])
RECALL = Gauge("vitrail_partition_recall_ratio", "Recall@10 of searches by default, measured.", ["collection_uid"])
TARGET = Gauge("vitrail_partition_recall_target_ratio", "What searches by default are to reach.", ["collection_uid"])
SAMPLES = Gauge(
    "vitrail_partition_recall_samples", "Queries of callers that recall was measured on.", ["collection_uid"]
)
BUILDS = Counter("vitrail_builds", "Trainings and compactions that ended, by outcome.", ["what", "outcome"])
PUBLISH_SECONDS = Histogram("vitrail_publish_seconds", "Time to publish a partition.", buckets=(*SECONDS, 5, 10))
SNAPSHOTS = Counter("vitrail_snapshots", "Snapshots that were written or read, by outcome.", ["what", "outcome"])
SNAPSHOT_BYTES = Counter("vitrail_snapshot_bytes", "Bytes of chunks that were written or read.", ["what"])
REBUILDS = Counter("vitrail_partition_rebuilds", "Partitions that were deleted because they could not be used.")

OF_PARTITION = (RECORDS, TAIL, SEQ, REACHED, HEAD, TRAINED, BUILDING, BEHIND, DEAD, RECALL, TARGET, SAMPLES)

DISK_FREE = Gauge("vitrail_disk_free_bytes", "Room left where partitions are kept.")
DISK = Gauge("vitrail_disk_bytes", "Room where partitions are kept, taken or not.")


def watch_disk(data: Path) -> None:
    """Tell of the disk that a directory lies on, whenever metrics are read."""
    DISK_FREE.set_function(lambda: shutil.disk_usage(data).free)
    DISK.set_function(lambda: shutil.disk_usage(data).total)


def report(partition: Partition) -> None:
    """Set the gauges of a partition."""
    uid = partition.collection.uid
    RECORDS.labels(uid).set(partition.view.records)
    TAIL.labels(uid).set(partition.tail)
    SEQ.labels(uid).set(partition.cursor.seq)
    REACHED.labels(uid).set(partition.reached)
    HEAD.labels(uid).set(partition.head)
    TRAINED.labels(uid).set(partition.view.trained is not None)
    BUILDING.labels(uid).set(bool(partition.building))
    BEHIND.labels(uid).set(bool(partition.trouble))
    DEAD.labels(uid).set(partition.dead)
    if (curve := partition.curve) is not None:
        RECALL.labels(uid).set(curve.at(partition.setting()))
        TARGET.labels(uid).set(partition.target)
        SAMPLES.labels(uid).set(curve.real_samples)


def forget(uid: int) -> None:
    """Stop reporting a collection that is gone."""
    for gauge in OF_PARTITION:
        with contextlib.suppress(KeyError):  # it may never have been reported
            gauge.remove(uid)
