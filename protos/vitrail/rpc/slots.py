"""Slots: how records are spread over shards. Fixed for ever, since every store and partition depends on it."""

import xxhash

SLOTS = 1024


def slot_of(record_id: str) -> int:
    """The slot of a record: xxh64 of the id's UTF-8 bytes, modulo 1,024."""
    return xxhash.xxh64_intdigest(record_id.encode()) % SLOTS


def slot_range(shard: int, shards: int) -> tuple[int, int]:
    """The slots that shard `shard` of `shards` owns, from the first up to and without the second."""
    return shard * SLOTS // shards, (shard + 1) * SLOTS // shards
