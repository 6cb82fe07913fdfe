"""A device for tests: faiss on the CPU, as strict as a GPU is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from vitrail.shard.device import Device
from vitrail.shard.index import Floats, Rows

# What faiss says of its GPU indexes (gpu/GpuIndexIVFPQ.cu, gpu/GpuIndexIVF.cu), apart from memory.
MOST = 2048
CODE_BYTES = {1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96}


def check_is_searchable(index: Any) -> None:
    """Fail where a GPU could not search these lists."""
    assert isinstance(index, faiss.IndexIVFPQ)
    assert index.pq.nbits == 8
    assert index.pq.M in CODE_BYTES
    assert index.by_residual


class StandIn:
    """Counts what it is asked, refuses what a GPU would, and fails where two threads meet in it."""

    def __init__(self) -> None:
        self.is_full = False
        """Whether there is no room left."""
        self.searched = 0
        """Queries."""
        self.held = 0
        """Inverted lists that have not been freed."""
        self.device = Device(self._copy)
        self._busy = threading.Lock()

    def _copy(self, index: Any) -> Any:
        with self.alone():
            copy = faiss.clone_index(index)
            return Lists(self, copy) if isinstance(copy, faiss.IndexIVF) else copy

    @contextmanager
    def alone(self, *, allocates: bool = True) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise AssertionError("two threads at once")
        try:
            if allocates and self.is_full:
                raise RuntimeError("no room")
            yield
        finally:
            self._busy.release()


class Lists:
    """In place of GpuIndexIVFPQ."""

    def __init__(self, device: StandIn, index: Any) -> None:
        check_is_searchable(index)
        self._device = device
        self._index = index
        device.held += 1

    def __del__(self) -> None:
        with self._device.alone(allocates=False):
            self._device.held -= 1

    @property
    def ntotal(self) -> int:
        return int(self._index.ntotal)

    @property
    def quantizer(self) -> Any:
        return self._index.quantizer

    @quantizer.setter
    def quantizer(self, quantizer: Any) -> None:
        self._index.quantizer = quantizer

    @property
    def nprobe(self) -> int:
        return int(self._index.nprobe)

    @nprobe.setter
    def nprobe(self, nprobe: int) -> None:
        assert 1 <= nprobe <= MOST
        self._index.nprobe = nprobe

    def search(self, queries: Floats, count: int) -> tuple[Floats, Rows]:
        assert 1 <= count <= MOST
        with self._device.alone():
            self._device.searched += len(queries)
            scores, rows = self._index.search(queries, count)
        return np.asarray(scores), np.asarray(rows)

    def add_with_ids(self, vectors: Floats, rows: Rows) -> None:
        with self._device.alone():
            self._index.add_with_ids(vectors, rows)
