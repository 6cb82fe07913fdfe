"""What a partition held at a checkpoint, as sums of digests, beside a dictionary of what it was told."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.shard.rows import clustered, collection, delete, upsert
from tests.shard.test_partition import build
from vitrail.rpc.digests import digest
from vitrail.rpc.slots import SLOTS, slot_of
from vitrail.shard.digests import Held
from vitrail.shard.partition import Partition
from vitrail.v1.log_pb2 import Cursor, Row
from vitrail.v1.types_pb2 import Attributes, Value

DIMENSION = 4
NAMES = [f"r{number}" for number in range(12)]
VECTORS = clustered(3, DIMENSION)
ATTRIBUTES = Attributes(fields={"n": Value(integer_value=1)}).SerializeToString()

NAME = st.sampled_from(NAMES)
STEP = st.one_of(
    st.tuples(st.just("upsert"), NAME, st.integers(0, 2), st.sampled_from([b"", ATTRIBUTES])),
    st.tuples(st.just("delete"), NAME),
    st.tuples(st.sampled_from(["checkpoint", "publish", "compact", "restart"])),
)


class Told:
    """A partition, and what it was told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.partition = self.opened()
        self.rows: dict[str, Row] = {}
        self.seq = 0

    def opened(self) -> Partition:
        return Partition(self.directory / "1", collection(DIMENSION), (0, SLOTS))

    def take(self, step: tuple[object, ...]) -> None:
        match step:
            case "upsert", str(name), int(vector), bytes(attributes):
                self.apply(upsert(name, VECTORS[vector], self.seq + 1, attributes))
            case "delete", str(name):
                self.apply(delete(name, self.seq + 1))
            case ("checkpoint",):
                self.checkpoint()
            case ("publish",):
                self.partition.publish()
            case ("compact",):
                self.partition.swap(build(self.partition, train=False, compact=True))
            case ("restart",):
                self.partition.close()
                self.partition = self.opened()
                assert self.partition.held is None
                missing = [row for row in self.rows.values() if row.seq > self.partition.cursor.seq]
                self.partition.apply(sorted(missing, key=lambda row: row.seq))
                self.checkpoint()

    def apply(self, row: Row) -> None:
        self.seq += 1
        self.partition.apply([row])
        self.rows[row.id] = row

    def checkpoint(self) -> None:
        self.partition.checkpoint(Cursor(collection_uid=1, seq=self.seq, mark=7))


def sums(rows: Mapping[str, Row]) -> NDArray[np.uint64]:
    """What the sums must be, made one by one."""
    found = [0] * SLOTS
    for name, row in rows.items():
        if not row.deleted:
            found[slot_of(name)] += digest(name.encode(), row.seq, row.vector, row.attributes)
    return np.array([number % 2**64 for number in found], np.uint64)


def held(partition: Partition) -> Held:
    assert partition.held is not None
    return partition.held


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=30))
def test_sums_are_those_of_what_there_is(steps: list[tuple[object, ...]]) -> None:
    """Whatever was written, compacted, published and opened again, in whichever order."""
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        told = Told(Path(directory))
        for step in steps:
            told.take(step)
        told.checkpoint()
        found = held(told.partition)
        np.testing.assert_array_equal(found.sums, sums(told.rows))
        last = np.zeros(SLOTS, np.int64)
        for name, row in told.rows.items():
            last[slot_of(name)] = max(last[slot_of(name)], row.seq)
        assert (last <= found.written).all()
        assert (found.written <= found.cursor.seq).all()
        told.partition.close()


def test_many_rows_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are read at a time, with dead ones among them."""
    monkeypatch.setattr("vitrail.shard.digests.SLICE", 64)
    told = Told(tmp_path)
    rows = [upsert(f"r{n}", VECTORS[n % 3], n + 1) for n in range(1001)]
    told.partition.apply(rows)
    told.partition.apply([delete(f"r{n}", 1001 + n) for n in range(0, 1000, 3)])
    told.checkpoint()
    expected = {row.id: row for number, row in enumerate(rows) if number % 3 or number == 1000}
    np.testing.assert_array_equal(held(told.partition).sums, sums(expected))


def test_only_checkpoints_are_told(tmp_path: Path) -> None:
    """Rows of a pass that is not complete prove nothing, neither alone nor after a compaction or a restart."""
    told = Told(tmp_path)
    told.apply(upsert("a", VECTORS[0], 1))
    assert told.partition.held is None
    told.checkpoint()
    at_checkpoint = sums(told.rows)
    told.apply(upsert("b", VECTORS[1], 2))
    np.testing.assert_array_equal(held(told.partition).sums, at_checkpoint)
    assert held(told.partition).cursor.seq == 1
    assert held(told.partition).written.max() == 1
    told.take(("compact",))
    assert told.partition.held is None
    told.checkpoint()
    told.take(("compact",))  # nothing came since the checkpoint: it is told of the new table
    np.testing.assert_array_equal(held(told.partition).sums, sums(told.rows))
    assert held(told.partition).documents is told.partition.view.table.documents


def test_a_row_that_is_lost_or_there_twice_shows(tmp_path: Path) -> None:
    """Though nobody deleted or wrote it."""
    told = Told(tmp_path)
    told.apply(upsert("a", VECTORS[0], 1))
    told.apply(upsert("a", VECTORS[1], 2))
    told.checkpoint()
    was = held(told.partition)
    assert was.live.tolist() == [0b10]
    for wrong in (0b00, 0b01, 0b11):
        other = Held(was.cursor, was.life, was.documents, np.array([wrong], np.uint8), was.written)
        assert (other.sums != was.sums).nonzero()[0].tolist() == [slot_of("a")]


def test_another_layout_says_the_same(tmp_path: Path) -> None:
    """Two halves have together the digests that one partition of everything has."""
    rows = [upsert(f"r{n}", VECTORS[n % 3], n + 1) for n in range(200)]
    found = []
    for begin, end in ((0, 1024), (0, 512), (512, 1024)):
        partition = Partition(tmp_path / f"{begin}-{end}", collection(DIMENSION), (begin, end))
        partition.apply([row for row in rows if begin <= row.slot < end])
        partition.checkpoint(Cursor(collection_uid=1, seq=200, mark=7))
        found.append(held(partition).sums)
    np.testing.assert_array_equal(found[0], found[1] + found[2])
