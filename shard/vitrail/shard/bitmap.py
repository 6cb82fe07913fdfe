"""Bitmaps of rows: uint8, one bit a row, the lowest first, as faiss reads them."""

import numpy as np
from numpy.typing import NDArray

from vitrail.shard.index import Bits, Rows


def pack(chosen: NDArray[np.bool_]) -> Bits:
    """Write bool [rows] as a bitmap."""
    return np.packbits(chosen, bitorder="little")


def rows_of(bits: Bits) -> Rows:
    """The rows whose bit is set, int64, ascending."""
    return np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.int64)


def count(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def changed(bits: Bits, rows: int, cleared: Rows, added: Rows) -> Bits:
    """A copy for so many rows, with the bits of some cleared and of others set."""
    found = np.zeros((rows + 7) // 8, np.uint8)
    found[: len(bits)] = bits
    np.bitwise_and.at(found, cleared >> 3, ~(1 << (cleared & 7)).astype(np.uint8))
    np.bitwise_or.at(found, added >> 3, (1 << (added & 7)).astype(np.uint8))
    return found
