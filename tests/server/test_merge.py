from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.slots import SLOTS, slot_range
from vitrail.server.merge import Found, Known, ShardHits, coverage, index_info, merge
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import GroupResult


def hits(text: str) -> list[Found]:
    """ "3a 1b" is a with score 3, then b with score 1."""
    return [Found(-float(word[:-1]), word[-1]) for word in text.split()]


MERGES = [
    (["", ""], 3, ""),
    (["3a 1b", "2c"], 3, "acb"),
    (["3a 1b", "2c"], 2, "ac"),
    (["1b", "1a", "1c"], 2, "ab"),
    (["2z 1a", "2b"], 3, "bza"),
    (["1b 1a"], 2, "ab"),
    (["-1a", "-2b"], 5, "ab"),
]


@pytest.mark.parametrize(("parts", "k", "expected"), MERGES)
def test_merge(parts: list[str], k: int, expected: str) -> None:
    """The best come first: by score, then by id."""
    assert "".join(found.id for found in merge([hits(part) for part in parts], k)) == expected


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), max_size=40),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_merging_shards_equals_sorting_everything(scores: dict[str, float], shards: int, k: int) -> None:
    """However records are spread, and however many have the same score."""
    parts: list[list[Found]] = [[] for _ in range(shards)]
    for place, (name, score) in enumerate(scores.items()):
        parts[place % shards].append(Found(-score, name))
    best = [sorted(part)[:k] for part in parts]
    assert merge(best, k) == sorted(Found(-score, name) for name, score in scores.items())[:k]


def test_packed_hits_are_those_of_their_query() -> None:
    """Counts say which hits belong to which query."""
    result = GroupResult(counts=[2, 0, 1], ids=["a", "b", "c"], scores=np.array([3, 1, 2], "<f4").tobytes())
    unpacked = ShardHits.of(result)
    assert [[found.id for found in unpacked.query(query)] for query in range(3)] == [["a", "b"], [], ["c"]]
    assert unpacked.query(2)[0].negative_score == -2.0


COVERAGES = [
    # (records, failure) of each shard → shards searched, records searched, total, fraction
    ([(10, ""), (30, "")], 2, 40, 40, 1.0),
    ([(10, ""), (30, "unreachable")], 1, 10, 40, 0.25),
    ([(10, ""), (None, "unreachable")], 1, 10, 20, 0.5),
    ([(10, ""), (20, ""), (None, "x"), (None, "x")], 2, 30, 60, 0.5),
    ([(0, ""), (0, "")], 2, 0, 0, 1.0),
    ([(0, ""), (0, "x")], 1, 0, 0, 0.5),
    ([(None, "x"), (None, "x")], 0, 0, 0, 0.0),
    ([(7, "x"), (3, "x")], 0, 0, 10, 0.0),
]


@pytest.mark.parametrize(("shards", "searched", "records", "total", "fraction"), COVERAGES)
def test_coverage(
    shards: list[tuple[int | None, str]], searched: int, records: int, total: int, fraction: float
) -> None:
    """The share of the records that was searched; a shard never heard of counts by its share of slots."""
    known = [Known(shard, count, failure) for shard, (count, failure) in enumerate(shards)]
    found = coverage(known)
    assert (found.shards_searched, found.shards_total) == (searched, len(shards))
    assert (found.records_searched, found.records_total) == (records, total)
    assert found.fraction == pytest.approx(fraction)
    assert [each.shard for each in found.unreachable] == [k.shard for k in known if k.failure]


def test_index_info_is_the_least_of_what_shards_say() -> None:
    """Trained and exact only when all are; the smallest place in the log; the largest nprobe."""
    one = GroupResult(trained=True, exact=False, nprobe=16, version="b", applied=Cursor(seq=7))
    other = GroupResult(trained=False, exact=True, version="", applied=Cursor(seq=5))
    info = index_info({0: one, 1: other, 2: GroupResult(error="expired")}, "space")
    assert (info.trained, info.exact, info.nprobe, info.version, info.seq) == (False, False, 16, "b", 5)
    assert index_info({0: one}, "space").trained


@given(st.integers(1, SLOTS))
def test_slot_ranges_cover_every_slot_once(shards: int) -> None:
    """For any number of shards, the ranges follow each other from the first slot to the last."""
    ranges = [slot_range(shard, shards) for shard in range(shards)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == SLOTS
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
