"""Copies of trained indexes on a GPU, which propose candidates in place of those in RAM.

A GPU knows no bitmaps. It is asked for the more candidates the fewer rows count, and those that do not are struck
out. A query that is left with too few is one for the index in RAM, as is everything that a GPU cannot do: so what is
found is never less than without one. What is compared exactly is compared by the CPU, where the vectors are.
"""

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.shard.lending import lend

# Of candidates and of lists, for each query (faiss, gpu/utils/DeviceDefs.cuh: GPU_MAX_SELECTION_K).
MOST = 2048
# So many standard deviations more candidates are asked for than would do if rows that do not count were spread evenly.
SPARE = 3


class Device:
    """Where copies are made. What is done there takes turns: faiss wants one thread at a time for all of a process."""

    def __init__(self, copy: Callable[[Any], Any]) -> None:
        """Take the function that copies a faiss index of the CPU, and raises RuntimeError where there is no room."""
        self.copy = copy
        # One that can be taken again: the thread that has it may free another index's copy.
        self.lock: AbstractContextManager[Any] = threading.RLock()


class DeviceLists:
    """The inverted lists of one trained index, on a device."""

    def __init__(self, device: Device, lists: Any, nearest: Any) -> None:
        """Copy.

        Args:
            device: Where to.
            lists: An IndexIVFPQ whose recipe `fits_gpu`.
            nearest: The quantizer that says to which list a vector goes.

        Raises:
            RuntimeError: There is no room.
        """
        self._lock = device.lock
        with self._lock:
            self._lists = device.copy(lists)
            self._best = self._lists.quantizer
            self._nearest = device.copy(nearest)

    def __del__(self) -> None:
        with self._lock:  # giving memory back is done on the device, too
            self._lists = self._nearest = None

    def add(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Add float32 [n, components] under their row numbers int64 [n].

        Raises:
            RuntimeError: There is no room.
        """
        with self._lock:
            lend(self._lists, "quantizer", self._nearest)
            try:
                self._lists.add_with_ids(vectors, rows)
            finally:
                lend(self._lists, "quantizer", self._best)  # which it owns, and frees

    def candidates(
        self, queries: NDArray[np.float32], count: int, nprobe: int, live: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Propose rows that count.

        Args:
            queries: float32 [q, components].
            count: How many are wanted.
            nprobe: The lists to probe.
            live: The rows that count: one bit a row, the lowest first; rows beyond its end do not.

        Returns:
            Rows int64 [q, count], best first, -1 where there are fewer; and for which queries, bool [q], these are
            all that the index in RAM would have proposed.

        Raises:
            RuntimeError: There is no room.
        """
        asked = _asked(count, int(np.bitwise_count(live).sum(dtype=np.int64)), self._lists.ntotal)
        if max(asked, nprobe) > MOST:
            return np.full((len(queries), count), -1, np.int64), np.zeros(len(queries), np.bool_)
        with self._lock:
            self._lists.nprobe = nprobe
            _, rows = self._lists.search(queries, asked)
        counted = _counted(rows, live)
        were_all = rows[:, -1] < 0
        first = np.argsort(~counted, axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(np.where(counted, rows, -1), first, axis=1)
        return found, were_all | (found[:, -1] >= 0)


def _asked(count: int, living: int, rows: int) -> int:
    """How many rows to ask for so that about always `count` of them are among those that count."""
    if not living:
        return MOST + 1
    share = min(1.0, living / rows)
    return math.ceil((count + SPARE * math.sqrt(count * (1 - share))) / share)


def _counted(rows: NDArray[np.int64], live: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of some rows, -1 for none, have their bit set."""
    known = (rows >= 0) & (rows < 8 * len(live))
    safe = np.where(known, rows, 0)
    return known & ((live[safe >> 3] >> (safe & 7).astype(np.uint8)) & 1).astype(np.bool_)
