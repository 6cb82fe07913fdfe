"""Comparing what two hold, and what the store holds of a slot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.digests import digest
from vitrail.rpc.slots import SLOTS, slot_of
from vitrail.server.digests import Compared, Held, compare, read_slot
from vitrail.server.store import Page, Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import GetDigestsResponse
from vitrail.v1.types_pb2 import Value


def held(applied: int, seqs: list[int], sums: list[int], begin: int = 0) -> Held:
    return Held(Cursor(seq=applied), begin, np.array(seqs, np.int64), np.array(sums, np.uint64))


TABLE = {
    "at the same place": (held(9, [3, 9], [1, 2]), held(9, [3, 9], [1, 2]), [0, 1], []),
    "at the same place, another record": (held(9, [3, 9], [1, 2]), held(9, [3, 9], [1, 5]), [0], [1]),
    "the same place, tombstones purged": (held(9, [3, 9], [1, 2]), held(9, [2, 0], [1, 2]), [0, 1], []),
    "written to meanwhile": (held(5, [3, 4], [1, 2]), held(9, [3, 9], [1, 7]), [0], []),
    "not written to meanwhile, and different": (held(5, [3, 4], [6, 2]), held(9, [3, 9], [1, 7]), [], [0]),
    "known only from a restart on": (held(5, [5, 5], [1, 2]), held(4, [3, 4], [1, 2]), [], []),
    "other slots": (held(9, [3], [1], 7), held(9, [3], [2], 8), [], []),
    "another layout": (held(9, [1, 2, 3], [4, 5, 6], 6), held(9, [2, 3, 9], [5, 7, 0], 7), [7], [8]),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_can_be_compared(case: str) -> None:
    """Slots to which neither saw a write from beyond the place of the other, whoever is named first."""
    one, other, equal, different = TABLE[case]
    assert compare(one, other) == compare(other, one) == Compared(equal, different)


@given(
    writes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2**64 - 1)), max_size=20),
    places=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    restarts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    lost=st.integers(0, 3),
)
def test_followers_of_one_log_never_differ(
    writes: list[tuple[int, int]], places: tuple[int, int], restarts: tuple[int, int], lost: int
) -> None:
    """Wherever they are and were started again; and one that lost a slot differs wherever that can be told."""

    def follower(place: int, restart: int) -> Held:
        place = min(place, len(writes))
        seqs, sums = [min(place, restart)] * 4, [0] * 4
        for seq, (slot, content) in enumerate(writes[:place], 1):
            seqs[slot], sums[slot] = max(seqs[slot], seq), (sums[slot] + content) % 2**64
        return held(place, seqs, sums)

    one, other = map(follower, places, restarts)
    compared = compare(one, other)
    assert not compared.different
    if places == (20, 20):
        assert compared.equal == [0, 1, 2, 3]
    damaged = one._replace(sums=np.where(np.arange(4) == lost, one.sums + np.uint64(1), one.sums))
    assert compare(damaged, other).different == [slot for slot in compared.equal if slot == lost]


@pytest.mark.parametrize(
    "response",
    [
        GetDigestsResponse(seqs=bytes(8), sums=bytes(16)),
        GetDigestsResponse(seqs=bytes(7), sums=bytes(7)),
        GetDigestsResponse(seqs=bytes(16), sums=bytes(16), slot_begin=SLOTS - 1),
        GetDigestsResponse(seqs=bytes(8), sums=bytes(8), slot_begin=-1),
    ],
)
def test_what_cannot_be_is_refused(response: GetDigestsResponse) -> None:
    """Sizes that do not go together, and slots that there are not."""
    with pytest.raises(ValueError, match=r"slots|buffer size"):
        Held.read(response)


IN_SLOT = [name for name in (f"r{number}" for number in range(20_000)) if slot_of(name) == 77][:7]


@pytest.mark.parametrize("page", [2, 1024])
def test_the_store_says_what_a_slot_holds(store: Store, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Its live records and no others, whatever became of them, in however many pages."""
    monkeypatch.setattr("vitrail.server.digests.PAGE_ROWS", page)
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    first, second, gone, *others = IN_SLOT
    empty = read_slot(store, uid, 77)
    assert empty is not None
    assert (empty.seqs.tolist(), empty.sums.tolist()) == ([0], [0])
    store.write([Write(uid, [NewRecord(name, {}, vector=b"12345678") for name in (*IN_SLOT, "other")])])
    store.write([Write(uid, [NewRecord(first, {"n": Value(integer_value=1)})], [gone])])
    store.write([Write(uid, [NewRecord(second, {}, vector=b"8765")])])
    store.write([Write(uid, deletes=["other"])])
    expected = digest(first.encode(), 9, b"12345678", store.get(uid, [first])[first].attributes)
    expected += digest(second.encode(), 11, b"8765", b"")
    expected += sum(digest(name.encode(), 4 + place, b"12345678", b"") for place, name in enumerate(others))
    found = read_slot(store, uid, 77)
    assert found is not None
    assert (found.begin, found.seqs.tolist(), found.sums.tolist()) == (77, [11], [expected % 2**64])
    assert found.applied.seq == 12
    assert store.knows(found.applied)
    assert read_slot(store, uid + 1, 77) is None


def test_a_slot_that_is_written_to_while_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What moves forward between two pages counts once, as it was when the last page was read."""
    monkeypatch.setattr("vitrail.server.digests.PAGE_ROWS", 3)
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    store.write([Write(uid, [NewRecord(name, {}, vector=b"12345678") for name in IN_SLOT])])
    first, second, *others = IN_SLOT
    changes = [Write(uid, [NewRecord(first, {}, vector=b"8765")]), Write(uid, deletes=[second])]
    page = Store.page

    def reading(self: Store, uid: int, slots: tuple[int, int], after: int, limit: int) -> Page | None:
        found = page(self, uid, slots, after, limit)
        if changes:
            self.write([changes.pop()])
        return found

    monkeypatch.setattr(Store, "page", reading)
    found = read_slot(store, uid, 77)
    assert found is not None
    expected = digest(first.encode(), 9, b"8765", b"")
    expected += sum(digest(name.encode(), 3 + place, b"12345678", b"") for place, name in enumerate(others))
    assert (found.sums.tolist(), found.seqs.tolist(), found.applied.seq) == ([expected % 2**64], [9], 9)


def test_a_tombstone_that_is_purged_before_it_was_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was read before it was deleted would count for ever: nothing is said, and the next time all is."""
    monkeypatch.setattr("vitrail.server.digests.PAGE_ROWS", 3)
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    store.write([Write(uid, [NewRecord(name, {}, vector=b"12345678") for name in IN_SLOT])])
    gone = [IN_SLOT[0]]
    page = Store.page

    def reading(self: Store, uid: int, slots: tuple[int, int], after: int, limit: int) -> Page | None:
        found = page(self, uid, slots, after, limit)
        if gone:
            self.write([Write(uid, deletes=[gone.pop()])])
            self.purge(uid, len(IN_SLOT) + 1)
        return found

    monkeypatch.setattr(Store, "page", reading)
    assert read_slot(store, uid, 77) is None
    found = read_slot(store, uid, 77)
    assert found is not None
    expected = sum(digest(name.encode(), 2 + place, b"12345678", b"") for place, name in enumerate(IN_SLOT[1:]))
    assert found.sums.tolist() == [expected % 2**64]
