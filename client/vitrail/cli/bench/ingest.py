"""A collection of the benchmark's own: made, filled, waited for, and deleted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vitrail.cli.bench import BenchFailed
from vitrail.cli.bench.figures import Ingestion
from vitrail.cli.bench.given import Floats, Given
from vitrail.cli.bench.progress import say, tracked, waiting
from vitrail.client import Client, CollectionStats, PartitionStats
from vitrail.client.models import Metric

ATTRIBUTE = "f"
"""An integer drawn uniformly from those below `VALUES`, so that `f < 1000` lets a thousandth pass."""
VALUES = 1_000_000

TRAIN_AT = (39, 10_000)
"""Records of a shard from which on it trains: half of what it gets, within these bounds."""
SHORT_TAIL, SHORT_SHARE = 256, 0.01
"""Rows that may be searched beside the trained index when a partition counts as at rest, or this share."""
REST_SECONDS = 2.0
"""A partition that begins something else within this time was not at rest."""
POLL_SECONDS = 0.1
STUCK_SECONDS = 1800.0
"""A server whose figures have not changed for so long has stopped, or takes longer than anyone waits."""


@contextmanager
def collection(client: Client, dimension: int, metric: Metric, vectors: int, keep: bool) -> Iterator[str]:
    """A collection for so many vectors, which is deleted on the way out unless it is to be kept."""
    name = f"bench-{uuid4().hex[:8]}"
    client.create_collection(name, dimension=dimension, metric=metric, attributes={ATTRIBUTE: "integer"})
    try:
        shards = max(1, len(client.stats(name).partitions))
        least, most = TRAIN_AT
        client.update_collection(name, train_at=min(most, max(least, vectors // shards // 2)))
        yield name
    finally:
        if keep:
            say(f"kept: {name}")
        else:
            client.delete_collection(name)


def values(rows: int) -> NDArray[np.int64]:
    """The attribute of every row, the same each time."""
    return np.random.default_rng(0).integers(VALUES, size=rows)


def load(client: Client, name: str, given: Given) -> Ingestion:
    """Upsert all vectors, and wait until the server is at rest."""
    attributes = values(len(given.base))
    began = time.monotonic()
    calling = 0.0
    for start, block in tracked(given.blocks(), "upserting", len(given.base)):
        calling += upsert(client, name, block, start, attributes[start : start + len(block)])
    upserted = time.monotonic() - began
    applied = _wait(client, name, "applying", _applied)
    trained = _wait(client, name, "training", lambda stats: _applied(stats) and _trained(stats))
    at_rest = _wait(client, name, "coming to rest", _at_rest, REST_SECONDS)
    any_trained = any(partition.state == "trained" for partition in client.stats(name).partitions)
    return Ingestion(
        upserted_per_second=len(given.base) / calling,
        upserted=upserted,
        applied=applied - began,
        trained=trained - began if any_trained else None,
        at_rest=at_rest - began,
    )


def upsert(client: Client, name: str, block: Floats, start: int, attributes: NDArray[np.int64]) -> float:
    """Upsert rows under their numbers; returns the seconds it took."""
    ids = [str(row) for row in range(start, start + len(block))]
    typed = [{ATTRIBUTE: value} for value in attributes.tolist()]
    began = time.monotonic()
    result = client.upsert(name, ids=ids, vectors=block, attributes=typed)
    if result.errors:
        raise BenchFailed(f"{len(result.errors)} vectors were refused: {result.errors[0].message}")
    return time.monotonic() - began


def wait_applied(client: Client, name: str) -> float:
    """Wait until every shard has applied all that the store holds; returns when, on the monotonic clock."""
    return _wait(client, name, "applying", _applied)


def wait_at_rest(client: Client, name: str) -> float:
    return _wait(client, name, "coming to rest", _at_rest, REST_SECONDS)


def _wait(client: Client, name: str, what: str, done: Callable[[CollectionStats], bool], lasting: float = 0.0) -> float:
    """Wait until something is true and stays so; returns when it became true, on the monotonic clock.

    Raises:
        BenchFailed: A shard is not reached, or nothing changes any more.
    """
    before, changed, since = None, time.monotonic(), None
    with waiting(what):
        while True:
            stats = client.stats(name)
            now = time.monotonic()
            since = (since or now) if done(stats) else None
            if since is not None and now - since >= lasting:
                return since
            if stats.partitions != before:
                before, changed = stats.partitions, now
            if now - changed > STUCK_SECONDS:
                raise BenchFailed(f"{what}: nothing has changed for {STUCK_SECONDS / 60:.0f} minutes")
            time.sleep(POLL_SECONDS)


def _applied(stats: CollectionStats) -> bool:
    return all(partition.reachable and partition.seq >= stats.seq for partition in stats.partitions)


def _trained(stats: CollectionStats) -> bool:
    return all(_is_trained(partition, stats.collection.train_at) for partition in stats.partitions)


def _at_rest(stats: CollectionStats) -> bool:
    short = all(
        partition.state != "trained" or partition.tail <= max(SHORT_TAIL, SHORT_SHARE * partition.records)
        for partition in stats.partitions
    )
    return short and _applied(stats) and _trained(stats) and not any(partition.busy for partition in stats.partitions)


def _is_trained(partition: PartitionStats, train_at: int) -> bool:
    return partition.state == "trained" or partition.records < train_at
