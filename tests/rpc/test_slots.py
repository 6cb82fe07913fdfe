from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.slots import SLOTS, slot_of, slot_range


@pytest.mark.parametrize(
    ("record_id", "slot"),
    [
        ("", 409),  # xxh64 of nothing is ef46db3751d8e999, as its specification says
        ("a", 603),
        ("b", 923),
        ("photo-1", 654),
        ("photos/cat.jpg", 107),
        ("shoes/1.jpg", 866),
        ("é", 888),
        ("日本", 939),
        ("ключ", 412),
        ("0" * 512, 49),
    ],
)
def test_slots_are_fixed_for_ever(record_id: str, slot: int) -> None:
    """Every store and partition depends on these numbers."""
    assert slot_of(record_id) == slot


@given(st.text())
def test_every_id_has_a_slot(record_id: str) -> None:
    """Whatever the id, its slot is one that some shard owns."""
    assert 0 <= slot_of(record_id) < SLOTS


@given(st.integers(1, SLOTS))
def test_shards_own_every_slot_once(shards: int) -> None:
    """For any number of shards the ranges follow each other from the first slot to the last, alike in size."""
    ranges = [slot_range(shard, shards) for shard in range(shards)]
    assert (ranges[0][0], ranges[-1][1]) == (0, SLOTS)
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert {end - begin for begin, end in ranges} <= {SLOTS // shards, -(-SLOTS // shards)}
