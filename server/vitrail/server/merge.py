"""Merging what shards found, and saying what the answer covers. Pure: nothing here touches a socket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from vitrail.rpc.slots import SLOTS, slot_range
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1.search_pb2 import Coverage, IndexInfo, UnreachableShard
from vitrail.v1.shard_pb2 import GroupResult


class Found(NamedTuple):
    """One hit of one shard. Ordered so that sorting gives the best first: by score, then by id."""

    negative_score: float
    id: str
    attributes: bytes = b""


@dataclass(frozen=True, slots=True)
class ShardHits:
    """What one shard found for a group of queries, unpacked once."""

    starts: Sequence[int]
    """Where the hits of query i begin; they end where those of i + 1 begin."""
    found: Sequence[Found]

    @classmethod
    def of(cls, result: GroupResult) -> "ShardHits":
        scores = (-np.frombuffer(result.scores, FLOAT32)).tolist()
        if result.attributes:
            found = list(map(Found, scores, result.ids, result.attributes))
        else:
            found = list(map(Found, scores, result.ids))
        return cls([0, *accumulate(result.counts)], found)

    def query(self, index: int) -> Sequence[Found]:
        return self.found[self.starts[index] : self.starts[index + 1]]


def merge(parts: Sequence[Sequence[Found]], k: int) -> list[Found]:
    """The k best of what several shards found, each part holding different records."""
    if len(parts) == 1:
        return sorted(parts[0])[:k]
    return sorted(chain.from_iterable(parts))[:k]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one shard and one collection when a batch is answered."""

    shard: int
    records: int | None
    """The last number heard; None where none ever was."""
    failure: str = ""
    """Why it did not answer, or empty where it did."""


def coverage(shards: Sequence[Known]) -> Coverage:
    """The share of the records that was searched, over all shards of a layout.

    A shard never heard of counts by its share of slots: the others' records say how many it must hold.
    """
    heard = [known for known in shards if known.records is not None]
    slots_heard = sum(_slots(known.shard, len(shards)) for known in heard)
    records_heard = sum(known.records or 0 for known in heard)
    total = round(records_heard * SLOTS / slots_heard) if slots_heard else 0
    answered = [known for known in shards if not known.failure]
    searched = sum(known.records or 0 for known in answered)
    share_of_slots = sum(_slots(known.shard, len(shards)) for known in answered) / SLOTS
    return Coverage(
        shards_searched=len(answered),
        shards_total=len(shards),
        records_searched=searched,
        records_total=total,
        fraction=searched / total if total else share_of_slots,
        unreachable=[UnreachableShard(shard=known.shard, reason=known.failure) for known in shards if known.failure],
    )


def index_info(results: Mapping[int, GroupResult], space: str) -> IndexInfo:
    """How a group of queries was searched, over the shards that answered."""
    answered = [result for result in results.values() if not result.error]
    return IndexInfo(
        trained=bool(answered) and all(result.trained for result in answered),
        exact=bool(answered) and all(result.exact for result in answered),
        nprobe=max((result.nprobe for result in answered), default=0),
        version="+".join(sorted({result.version for result in answered if result.version})),
        space=space,
        seq=min((result.applied.seq for result in answered), default=0),
        rerank_factor=max((result.rerank_factor for result in answered), default=0.0),
        recall=min((result.recall for result in answered), default=0.0),
        matching=sum(result.matching for result in answered),
    )


def _slots(shard: int, shards: int) -> int:
    begin, end = slot_range(shard, shards)
    return end - begin
