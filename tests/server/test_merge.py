"""Merging and coverage as tables. Shards are separated by bars, as in "a:9 b:7 | c:8"."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.vectors import FLOAT32
from vitrail.server.merge import Known, coverage, fits, index_info, merge
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import GroupResult

Scored = tuple[str, float]


def found(*queries: Sequence[Scored]) -> GroupResult:
    """What a shard found for each query, in its own order."""
    hits = [hit for query in queries for hit in query]
    scores = np.array([score for _, score in hits], FLOAT32)
    return GroupResult(
        counts=[len(query) for query in queries], ids=[name for name, _ in hits], scores=scores.tobytes()
    )


def scored(text: str) -> list[Scored]:
    return [(name, float(score)) for name, score in (word.split(":") for word in text.split())]


@pytest.mark.parametrize(
    ("shards", "k", "merged"),
    [
        ("", 3, ""),
        ("|", 3, ""),
        ("a:9 b:7", 3, "a b"),
        ("a:9 b:7 | c:8", 3, "a c b"),
        ("a:9 b:7 | c:8", 2, "a c"),
        ("a:9 b:7 | c:8 | d:10", 1, "d"),
        ("| c:8 |", 3, "c"),
        # Equal scores: by id, whatever the shard, also where they fill the last place.
        ("b:5 d:5 | a:5 c:5", 3, "a b c"),
        ("b:5 | a:5", 1, "a"),
        ("z:6 | a:5 b:5", 2, "z a"),
        # Euclidean scores are negative: nearest first.
        ("a:-1 b:-9 | c:0", 3, "c a b"),
        # A shard that orders equal scores in its own way.
        ("b:5 a:5", 2, "a b"),
    ],
)
def test_merge(shards: str, k: int, merged: str) -> None:
    """The best come first: by score, then by id."""
    (hits,) = merge([found(scored(part)) for part in shards.split("|")], k)
    assert [id for _, id, _ in hits] == merged.split()


SCORES = st.sampled_from([-np.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0]) | st.floats(-1, 1, width=32)


@given(
    queries=st.lists(
        st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 3), SCORES), max_size=30), min_size=1, max_size=4
    ),
    k=st.integers(1, 8),
)
def test_merging_equals_sorting_everything(queries: list[dict[str, tuple[int, float]]], k: int) -> None:
    """For each query the k best of each shard merged are the k best of all records, however they are spread."""

    def best(records: Iterable[Scored]) -> list[Scored]:
        return sorted(records, key=lambda hit: (-hit[1], hit[0]))[:k]

    everything = [best((name, score) for name, (_, score) in records.items()) for records in queries]
    parts = [
        found(*(best((name, score) for name, (at, score) in records.items() if at == shard) for records in queries))
        for shard in range(4)
    ]
    assert [[(id, -negative_score) for negative_score, id, _ in hits] for hits in merge(parts, k)] == everything


def test_attributes_go_with_their_hits() -> None:
    """Each query's hits keep what came with them, also where a shard found nothing for it."""
    first, second = found(scored("a:0.5 b:0.25"), [], scored("c:-1")), found([], [], scored("d:1"))
    first.attributes.extend([b"x", b"", b"z"])
    second.attributes.append(b"w")
    assert merge([first, second], 2) == [
        [(-0.5, "a", b"x"), (-0.25, "b", b"")],
        [],
        [(-1.0, "d", b"w"), (1.0, "c", b"z")],
    ]


@pytest.mark.parametrize(
    ("result", "queries", "fitting"),
    [
        (found(scored("a:1 b:2"), []), 2, True),
        (found(scored("a:1 b:2"), []), 1, False),
        (GroupResult(counts=[2], ids=["a"], scores=bytes(8)), 1, False),
        (GroupResult(counts=[1], ids=["a"], scores=bytes(3)), 1, False),
        (GroupResult(counts=[1], ids=["a"], scores=bytes(4), attributes=[b"x"]), 1, True),
        (GroupResult(counts=[1], ids=["a"], scores=bytes(4), attributes=[b"", b""]), 1, False),
    ],
)
def test_answers_of_another_shape(result: GroupResult, queries: int, fitting: bool) -> None:
    """Counts, ids and scores must belong together before they are taken apart."""
    assert fits(result, queries) == fitting


def known(text: str) -> list[Known]:
    """Shards as "100": answered, with 100 records; "100!": did not; "?!": did not and was never heard of."""
    return [
        Known(
            shard,
            None if word.startswith("?") else int(word.rstrip("!")),
            "unreachable" if word.endswith("!") else "",
        )
        for shard, word in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("shards", "searched", "total", "fraction"),
    [
        # All answered.
        ("100", 100, 100, 1.0),
        ("100 300", 400, 400, 1.0),
        # One did not, and is counted as it was last known.
        ("100 100!", 100, 200, 0.5),
        ("100! 300", 300, 400, 0.75),
        ("100 0!", 100, 100, 1.0),
        # One was never heard of: it counts by its share of slots, 512 of 1,024, then 341.
        ("100 ?!", 100, 200, 0.5),
        ("?! 100", 100, 200, 0.5),
        ("341 ?! 342", 683, 1024, 683 / 1024),
        ("300 100! ?!", 300, 601, 300 / 601),
        # An empty collection.
        ("0", 0, 0, 1.0),
        ("0 0 0", 0, 0, 1.0),
        ("0 0!", 0, 0, 0.5),
        ("0 ?!", 0, 0, 0.5),
        # Nobody answered.
        ("100! 300!", 0, 400, 0.0),
        ("0! 0!", 0, 0, 0.0),
        ("?! ?!", 0, 0, 0.0),
    ],
)
def test_coverage(shards: str, searched: int, total: int, fraction: float) -> None:
    """Coverage is the share of the last known records that was searched, and names who is missing."""
    covered = coverage(known(shards))
    missing = [index for index, word in enumerate(shards.split()) if word.endswith("!")]
    assert (covered.records_searched, covered.records_total) == (searched, total)
    assert covered.fraction == pytest.approx(fraction)
    assert covered.shards_total == len(shards.split())
    assert covered.shards_searched == covered.shards_total - len(missing)
    assert [(one.shard, one.reason) for one in covered.unreachable] == [(index, "unreachable") for index in missing]


def result(
    *, trained: bool = True, exact: bool = False, nprobe: int = 0, version: str = "", seq: int = 0, error: str = ""
) -> GroupResult:
    return GroupResult(
        trained=trained, exact=exact, nprobe=nprobe, version=version, applied=Cursor(seq=seq), error=error
    )


UNKNOWN = result(trained=False, error="unknown collection")


@pytest.mark.parametrize(
    ("results", "trained", "exact", "nprobe", "version", "seq"),
    [
        ([], False, False, 0, "", 0),
        ([UNKNOWN], False, False, 0, "", 0),
        ([result(nprobe=8, version="a", seq=7)], True, False, 8, "a", 7),
        # Trained, and exact, only where all are; the largest nprobe, the smallest seq.
        (
            [result(nprobe=8, version="a", seq=7), result(nprobe=16, version="b", seq=5)],
            True, False, 16, "a+b", 5,
        ),
        (
            [result(nprobe=8, version="a", seq=7), result(trained=False, exact=True, seq=9)],
            False, False, 8, "a", 7,
        ),
        ([result(exact=True, trained=False), result(exact=True, trained=True)], False, True, 0, "", 0),
        # Replicas and shards of one version name it once.
        ([result(version="a", seq=1), result(version="a", seq=1)], True, False, 0, "a", 1),
        # A shard that does not know the collection says nothing about it.
        ([result(nprobe=8, version="a", seq=7), UNKNOWN], True, False, 8, "a", 7),
    ],
)  # fmt: skip
def test_index_info(
    results: Sequence[GroupResult], trained: bool, exact: bool, nprobe: int, version: str, seq: int
) -> None:
    """How it was searched, over the shards that did."""
    info = index_info(dict(enumerate(results)), "space")
    assert (info.trained, info.exact, info.nprobe, info.version, info.seq) == (trained, exact, nprobe, version, seq)
    assert info.space == "space"


def test_index_info_of_a_filtered_search() -> None:
    """The largest rerank factor, the smallest recall, and all records that met the filter."""
    one = GroupResult(rerank_factor=10, recall=0.96875, matching=40)
    other = GroupResult(rerank_factor=20, recall=0.9375, matching=2)
    info = index_info({0: one, 1: other, 2: GroupResult(error="expired", recall=0.5, matching=7)}, "space")
    assert (info.rerank_factor, info.recall, info.matching) == (20, 0.9375, 42)
    unmeasured = index_info({0: one, 1: GroupResult()}, "space")
    assert unmeasured.recall == 0
