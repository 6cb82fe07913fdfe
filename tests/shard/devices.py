"""A device for tests: faiss on the CPU, as strict as a GPU is."""

import threading
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


class Turns:
    """A lock that may be taken again, and knows who has it."""

    def __init__(self) -> None:
        self.owner = 0
        self._lock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.owner, self._depth = threading.get_ident(), self._depth + 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.owner = 0
        self._lock.release()


class StandIn:
    """Counts what it is asked, and refuses what a GPU would and whoever has not waited for his turn."""

    def __init__(self) -> None:
        self.is_full = False
        """Whether there is no room left."""
        self.searched = 0
        """Queries."""
        self.held = 0
        """Inverted lists that have not been freed."""
        self._turns = Turns()
        self.device = Device(self._copy)
        self.device.lock = self._turns

    def _copy(self, index: Any) -> Any:
        self.allocate()
        copy = faiss.clone_index(index)
        return Lists(self, copy) if isinstance(copy, faiss.IndexIVF) else copy

    def allocate(self) -> None:
        self.check_turn()
        if self.is_full:
            raise RuntimeError("no room")

    def check_turn(self) -> None:
        assert self._turns.owner == threading.get_ident()


class Lists:
    """In place of GpuIndexIVFPQ."""

    def __init__(self, device: StandIn, index: Any) -> None:
        check_is_searchable(index)
        self._device = device
        self._index = index
        self._owned = index.quantizer
        device.held += 1

    def __del__(self) -> None:
        self._device.check_turn()
        assert int(self._index.quantizer.this) == int(self._owned.this)  # or another one is freed in its place
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
        self._device.allocate()
        self._device.searched += len(queries)
        scores, rows = self._index.search(queries, count)
        return np.asarray(scores), np.asarray(rows)

    def add_with_ids(self, vectors: Floats, rows: Rows) -> None:
        self._device.allocate()
        self._index.add_with_ids(vectors, rows)
