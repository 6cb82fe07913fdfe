"""How many shards, and what each takes."""

import math
from dataclasses import dataclass

from vitrail.cli.plan import constants
from vitrail.cli.plan.sizes import Kind, Partition


class NoPlan(Exception):
    """No number of shards will do; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What is wanted.

    Attributes:
        records: In all.
        kind: What they are like.
        replicas: Processes of each shard.
        queries: A second.
        cached: The share of the vectors that memory is to hold.
        shard_memory: Bytes that one process may have.
        shards: How many, whatever they take; 0 for as few as `shard_memory` and the queries allow.
    """

    records: int
    kind: Kind
    replicas: int = 2
    queries: float = 0.0
    cached: float = 1.0
    shard_memory: float = 16 * 2**30
    shards: int = 0


@dataclass(frozen=True)
class Plan:
    """Bytes, seconds and cores. Those of a shard are those of its largest, by its slots.

    Attributes:
        shards: How many.
        replicas: Processes of each, so many as were asked for or as the queries take.
        records: Of a shard.
        memory: Of a shard's process at rest, anonymous.
        most_memory: While it builds, anonymous.
        cache: Vectors that are to be in memory beside that.
        vectors: On disk, of a shard.
        disk: Of a shard at rest.
        most_disk: While it compacts.
        store: Of the records in PostgreSQL, indexes included.
        opening_seconds: Start-up from its own files.
        snapshot_seconds: From a snapshot.
        following_seconds: From the start of the log.
        shard_cores: Of a process, for the queries.
        coordinator_cores: In all, for the queries.
        photo_cores: That searches by photo take more.
        reads: Of each process from disk, for one query.
    """

    asked: Asked
    shards: int
    replicas: int
    records: int
    memory: float
    most_memory: float
    cache: float
    vectors: float
    disk: float
    most_disk: float
    store: float
    opening_seconds: float
    snapshot_seconds: float
    following_seconds: float
    shard_cores: float
    coordinator_cores: float
    photo_cores: float
    reads: float

    @property
    def limit(self) -> float:
        """Memory that a process is to be given."""
        return self.most_memory + self.cache


def plan(asked: Asked) -> Plan:
    """Work it out.

    Raises:
        NoPlan: Not even with as many shards as there can be.
    """
    shards = asked.shards or _fewest(asked)
    one = _numbered(asked, shards)
    kind, search = asked.kind, _processes(asked, one)
    replicas = max(asked.replicas, math.ceil(search))
    pages = 1 + (kind.vector_bytes - 1) / constants.PAGE
    return Plan(
        asked=asked,
        shards=shards,
        replicas=replicas,
        records=one.records,
        memory=one.memory,
        most_memory=one.most_memory,
        cache=asked.cached * one.vectors,
        vectors=one.vectors,
        disk=one.disk,
        most_disk=one.most_disk,
        store=asked.records * kind.stored_bytes,
        opening_seconds=one.opening_seconds,
        snapshot_seconds=one.snapshot_seconds,
        following_seconds=one.following_seconds,
        shard_cores=search / replicas,
        coordinator_cores=asked.queries * _coordinator_seconds(shards) / constants.BUSY,
        photo_cores=asked.queries * constants.PHOTO_SECONDS / constants.BUSY,
        reads=(1 - asked.cached) * constants.RERANKED * pages,
    )


def largest(asked: Asked, shards: int) -> Partition:
    """The partition of the shard with the most slots."""
    share = math.ceil(constants.SLOTS / shards) / constants.SLOTS
    return Partition(asked.kind, math.ceil(asked.records * share))


def _numbered(asked: Asked, shards: int) -> Partition:
    """The largest one, if it can number its rows."""
    one = largest(asked, shards)
    if one.rows > constants.MOST_ROWS:
        named, most = "--shards" if asked.shards else "--records", round(constants.LIVE_SHARE * constants.MOST_ROWS)
        raise NoPlan(f"{named}: {shards:,} shards of {one.records:,} records, and each can number {most:,} at most")
    return one


def _fewest(asked: Asked) -> int:
    """As few shards as memory allows, with which so many processes of each answer the queries, if any do."""
    able = [shards for shards in range(1, constants.SLOTS + 1) if _fits(asked, largest(asked, shards))]
    if not able:
        least = _takes(asked, _numbered(asked, constants.SLOTS)) / 2**30
        raise NoPlan(f"--shard-memory: {constants.SLOTS:,} shards, the most there can be, need {least:,.1f} GiB each")
    quick = (shards for shards in able if _processes(asked, largest(asked, shards)) <= asked.replicas)
    return next(quick, able[0])


def _fits(asked: Asked, one: Partition) -> bool:
    return _takes(asked, one) <= asked.shard_memory and one.rows <= constants.MOST_ROWS


def _takes(asked: Asked, one: Partition) -> float:
    """Memory that a process of this shard is to be given."""
    return one.most_memory + asked.cached * one.vectors


def _processes(asked: Asked, one: Partition) -> float:
    """So many of a shard answer the queries, each on one core."""
    return asked.queries * one.search_seconds / constants.BUSY


def _coordinator_seconds(shards: int) -> float:
    """CPU that a query costs the coordinator."""
    share = constants.SHARDS_SHARE
    return constants.COORDINATOR_SECONDS * (1 - share + share * shards / 2)
