"""Merging what shards found, and saying what the answer covers. Pure: nothing here touches a socket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import TypeAlias

import numpy as np

from vitrail.rpc.slots import SLOTS, slot_range
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1.search_pb2 import Coverage, IndexInfo, UnreachableShard
from vitrail.v1.shard_pb2 import GroupResult

Found: TypeAlias = tuple[float, str, bytes]
"""One hit: its negated score, its id and its attributes, so that sorting gives the best first, by score, then by id.

A plain tuple: `zip` makes them several times as fast as instances of any class are made.
"""


def fits(result: GroupResult, queries: int) -> bool:
    """Whether a shard's answer has the shape of one to so many queries."""
    hits = sum(result.counts)
    shape = (len(result.counts), len(result.ids), len(result.scores))
    return shape == (queries, hits, FLOAT32.itemsize * hits) and len(result.attributes) in (0, hits)


def merge(results: Sequence[GroupResult], k: int) -> list[list[Found]]:
    """For each query of a group the k best of what one shard found or more, each holding different records."""
    parts = []
    for result in results:
        scores = (-np.frombuffer(result.scores, FLOAT32)).tolist()
        found = list(zip(scores, result.ids, result.attributes or repeat(b""), strict=False))
        ends = list(accumulate(result.counts))
        parts.append([found[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return [sorted(chain.from_iterable(of_query))[:k] for of_query in zip(*parts, strict=True)]


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
