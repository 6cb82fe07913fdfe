"""What a partition held at a checkpoint, in so few bytes that processes can be compared by them.

Rows move forward in the log when they are written again, so nothing but the state at a checkpoint can be compared. The
sums are made of the live rows that there are, never kept up by adding and subtracting: a row that was lost, or is there
twice, shows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.slots import SLOTS
from vitrail.shard.bitmap import rows_of
from vitrail.shard.documents import Documents
from vitrail.shard.index import Bits
from vitrail.v1.log_pb2 import Cursor

# Rows that are added up at a time: a millisecond for which no other thread runs.
SLICE = 1 << 16


@dataclass(frozen=True)
class Held:
    """The records of a partition at a checkpoint."""

    cursor: Cursor
    life: str
    """The partition's own at that time."""
    documents: Documents
    live: Bits
    """One bit a row, the lowest first: set for those that hold a record."""
    written: NDArray[np.int64]
    """For each of all slots a `seq` after which, up to the checkpoint, nothing was written to it."""

    @cached_property
    def sums(self) -> NDArray[np.uint64]:
        """The digest of each of all slots; made when first asked for, in 12 ms a million rows."""
        sums = np.zeros(SLOTS, np.uint64)
        entries = self.documents.entries()
        for start in range(0, 8 * len(self.live), SLICE):
            rows = start + rows_of(self.live[start // 8 : (start + SLICE) // 8])
            np.add.at(sums, entries["hash"][rows] % SLOTS, entries["digest"][rows])
        return sums
