"""Comparing what two hold of a collection, slot by slot: shards by their digests, the store by its log.

Whoever followed the log up to the same place holds the same. While there are writes nobody is at the same place, but a
slot is as it was at an earlier one where nothing was written to it since. So two can be compared in a slot to which
neither saw a write from beyond the place of the other.
"""

from typing import NamedTuple

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray

from vitrail.rpc.digests import digest
from vitrail.rpc.slots import SLOTS
from vitrail.server.store import Store
from vitrail.server.topology import Replica
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import GetDigestsRequest, GetDigestsResponse

log = structlog.get_logger()

# Of the log, read at a time: some megabytes.
PAGE_ROWS = 1024


class Held(NamedTuple):
    """What one holds of some slots of a collection, at a place in its log."""

    applied: Cursor
    begin: int
    """The first of the slots; the others follow."""
    seqs: NDArray[np.int64]
    """For each a `seq` after which nothing was written to it."""
    sums: NDArray[np.uint64]
    """For each its digest."""
    life: str = ""
    """Of the partition: another one after each rebuild."""

    @classmethod
    def read(cls, response: GetDigestsResponse) -> "Held":
        """What a shard says.

        Raises:
            ValueError: It cannot be.
        """
        seqs, sums = np.frombuffer(response.seqs, "<i8"), np.frombuffer(response.sums, "<u8")
        if len(seqs) != len(sums) or not 0 <= response.slot_begin <= SLOTS - len(seqs):
            raise ValueError(f"{len(seqs)} and {len(sums)} slots from {response.slot_begin} on")
        return cls(response.applied, response.slot_begin, seqs, sums, response.life)

    @property
    def end(self) -> int:
        """The first slot after them."""
        return self.begin + len(self.sums)

    @property
    def digest(self) -> str:
        """That of all its records, as 16 hexadecimal digits."""
        return f"{self.sums.sum(dtype=np.uint64):016x}"


class Compared(NamedTuple):
    """The slots in which two could be compared."""

    equal: list[int]
    different: list[int]


def compare(one: Held, other: Held) -> Compared:
    """Compare what two hold."""
    begin, end = max(one.begin, other.begin), min(one.end, other.end)
    if begin >= end:
        return Compared([], [])
    own, others = slice(begin - one.begin, end - one.begin), slice(begin - other.begin, end - other.begin)
    last = np.maximum(one.seqs[own], other.seqs[others])
    comparable = last <= min(one.applied.seq, other.applied.seq)
    is_equal = one.sums[own] == other.sums[others]
    equal, different = (begin + np.flatnonzero(comparable & chosen) for chosen in (is_equal, ~is_equal))
    return Compared(equal.tolist(), different.tolist())


async def ask(replica: Replica, uid: int, timeout: float) -> Held | None:
    """What a process held of a collection at its last checkpoint; None where it does not say."""
    if not replica.answers:
        return None
    try:
        return Held.read(await replica.stub.GetDigests(GetDigestsRequest(collection_uid=uid), timeout=timeout))
    except (grpc.aio.AioRpcError, grpc.aio.UsageError):  # the latter where it is forgotten, and its channel closed
        return None
    except ValueError as error:
        log.warning("malformed digests", address=replica.address, why=str(error))
        return None


def read_slot(store: Store, uid: int, slot: int) -> Held | None:
    """What the store holds of one slot; None where the collection is gone, or a tombstone was purged before it came.

    Read as followers read it: a row that comes again has moved forward, and the page that comes back short completes
    a snapshot. Takes about 0.1 s where a collection has a million records: a walk through the index, and a thousand
    vectors.

    Raises:
        Unavailable: The store failed.
    """
    digests: dict[str, int] = {}
    last, began = 0, None
    while True:
        page = store.page(uid, (slot, slot + 1), last, PAGE_ROWS)
        if page is None:
            return None
        began = page.head.seq if began is None else began
        if page.purged > began:
            return None
        for row in page.rows:
            digests[row.id] = 0 if row.deleted else digest(row.id.encode(), row.seq, row.vector, row.attributes)
            last = row.seq
        if len(page.rows) < PAGE_ROWS:
            total = sum(digests.values()) % 2**64
            return Held(page.head, slot, np.array([last]), np.array([total], np.uint64))
