"""Merging what shards found, and saying what the answer covers. Pure: nothing here touches a socket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.slots import SLOTS, slot_range
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1.search_pb2 import Coverage, IndexInfo, UnreachableShard
from vitrail.v1.shard_pb2 import GroupResult


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits of one query, best first: parallel lists, since a tuple a hit costs more than all the rest here."""

    ids: list[str]
    scores: list[float]
    attributes: list[bytes]
    """Empty where they were not asked for."""

    def at(self, places: Sequence[int]) -> "Hits":
        """Those at some places."""
        attributes = [self.attributes[place] for place in places] if self.attributes else []
        return Hits([self.ids[place] for place in places], [self.scores[place] for place in places], attributes)


def fits(result: GroupResult, queries: int) -> bool:
    """Whether a shard's answer has the shape of one to so many queries."""
    hits = sum(result.counts)
    shape = (len(result.counts), len(result.ids), len(result.scores))
    return shape == (queries, hits, FLOAT32.itemsize * hits) and len(result.attributes) in (0, hits)


def merge(results: Sequence[GroupResult], k: int) -> list[Hits]:
    """For each query of a group the k best of what one shard or more found: by score, then by id.

    All queries are ordered at once, by score; only where scores are equal are ids compared.
    """
    ids = list(chain.from_iterable(result.ids for result in results))
    attributes: list[bytes] = []
    if any(result.attributes for result in results):
        attributes = list(chain.from_iterable(result.attributes or [b""] * len(result.ids) for result in results))
    scores = np.concatenate([np.frombuffer(result.scores, FLOAT32) for result in results])
    places, worse = _table(np.array([result.counts for result in results]), scores)
    order = np.argsort(worse, axis=1, kind="stable")
    places, worse = np.take_along_axis(places, order, 1), np.take_along_axis(worse, order, 1)
    found = np.minimum((places >= 0).sum(axis=1), k)
    tied = worse[:, 1 : k + 1] == worse[:, :-1][:, :k]
    for query in np.flatnonzero(tied.any(axis=1)).tolist():
        row = places[query][places[query] >= 0].tolist()
        row.sort(key=lambda place: (-scores[place], ids[place]))
        places[query, : len(row)] = row
    everything = Hits(ids, scores.tolist(), attributes)
    return [everything.at(row[:count]) for row, count in zip(places[:, :k].tolist(), found.tolist(), strict=True)]


def _table(counts: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A row a query: the places of its hits among all hits, and their negated scores.

    Where a row has no more hits stand -1 and NaN, which is sorted behind everything and equals nothing.

    Args:
        counts: int64 [shards, q].
        scores: Of all hits, shard after shard and query after query.
    """
    shards, queries = counts.shape
    width = max(1, counts.max(initial=0))
    starts = (np.cumsum(counts) - counts.ravel()).reshape(shards, queries, 1)
    within = np.arange(width)
    places = np.where(within < counts[:, :, np.newaxis], starts + within, -1)
    places = places.transpose(1, 0, 2).reshape(queries, shards * width)
    return places, -np.append(scores, np.float32(np.nan))[places]


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
