"""Every metric of the coordinator. The standard `grpc_server_*` ones stand in vitrail.rpc.server."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

QUEUE_DEPTH = Gauge("vitrail_queue_depth_items", "What waits: images, queries or rows.", ["queue"])
QUEUE_CAPACITY = Gauge("vitrail_queue_capacity_items", "How much may wait.", ["queue"])
QUEUE_SECONDS = Histogram(
    "vitrail_queue_seconds", "How long the first of a batch had waited.", ["queue"], buckets=SECONDS
)
BATCH_SIZE = Histogram("vitrail_batch_size_items", "What went together.", ["queue"], buckets=SIZES)
REFUSED = Counter("vitrail_refused", "Calls refused because a queue was full.", ["queue"])

STEP_SECONDS = Histogram("vitrail_step_seconds", "Time of each step of a search.", ["step"], buckets=SECONDS)
COMMIT_SECONDS = Histogram("vitrail_commit_seconds", "Time of one transaction of the store.", buckets=SECONDS)
ROWS_WRITTEN = Counter("vitrail_rows_written", "Records upserted or deleted.")
STORE_REACHABLE = Gauge("vitrail_store_reachable", "1 while the store answers.")
IMAGES_EMBEDDED = Counter("vitrail_images_embedded", "Images turned into vectors.")
IMAGES_REFUSED = Counter("vitrail_images_refused", "Images that could not be decoded, or were too large.")
DEVICE_SECONDS = Counter("vitrail_device_busy_seconds", "Time in which a device embedded images.", ["device"])
EMBEDDER_LOADED = Gauge("vitrail_embedder_loaded", "1 once the embedder's weights are in memory.")

FANOUT_FAILURES = Counter("vitrail_fanout_failures", "Shards that did not answer a batch.", ["shard", "reason"])
REPLICA_SECONDS = Histogram(
    "vitrail_replica_seconds",
    "Time that a shard process took for a batch, seen from here; until it was left, where another one was first.",
    ["layout", "shard", "address"],
    buckets=SECONDS,
)
SHARD_REPLICAS = Gauge(
    "vitrail_shard_replicas", "Processes that can be asked for a shard of the layout that serves.", ["layout", "shard"]
)
REPLICA_REACHABLE = Gauge("vitrail_replica_reachable", "1 while a shard process answers.", ["address"])
REPLICA_QUARANTINED = Gauge(
    "vitrail_replica_quarantined", "1 while a process is not asked, since it held other records.", ["address"]
)
DIGEST_COMPARISONS = Counter("vitrail_digest_comparisons", "Slots of partitions that were compared with the store.")
DIGEST_MISMATCHES = Counter("vitrail_digest_mismatches", "Those of them that held other records than the store.")
DIGEST_SUSPECTS = Gauge("vitrail_digest_suspects", "Slots in which processes differed when they were last compared.")
HEDGES = Counter("vitrail_hedges", "Batches that were also asked of a second replica, since the first was slow.")
FAILOVERS = Counter("vitrail_failovers", "Batches that were asked of another replica, since one had failed.")
COVERAGE = Histogram(
    "vitrail_coverage_ratio",
    "Share of the records that an answer searched.",
    buckets=(0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1),
)
FOLLOWERS = Gauge("vitrail_log_followers", "Shards that follow the log here.")
# A version that does not serve has the name "clothes@2". Shards know the uid alone.
COLLECTION = ["collection", "collection_uid"]
RECORDS = Gauge("vitrail_collection_records", "Live records in the store.", COLLECTION)
SEQ = Gauge("vitrail_collection_seq", "The last sequence number given out.", COLLECTION)
