"""A set of 64-bit keys that is asked for a million at once: hash tables that NumPy can look into."""

import random
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def random_multipliers(count: int) -> Words:
    """Odd numbers: a product with one of them has well mixed high bits, whatever the other factor was made for."""
    return np.array([random.getrandbits(64) | 1 for _ in range(count)], np.uint64)


class Members:
    """Keys of a set, uint64 [n], n at least 1, with well mixed high bits.

    Those whose high bits meet in one slot go to further tables, so that every key has a slot of its own in one of
    them; with four slots a key or more, two tables hold most sets.
    """

    def __init__(self, keys: Words) -> None:
        bits = max(8, (4 * len(keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        slots = (keys >> self._shift).astype(np.int64)
        order = np.argsort(slots, kind="stable")
        slots = slots[order]
        depths = np.arange(len(keys)) - np.searchsorted(slots, slots)
        self._tables: list[NDArray[np.int64]] = []
        for depth in range(int(depths.max()) + 1):
            table = np.zeros(1 << bits, np.int64)
            table[slots[depths == depth]] = order[depths == depth]
            self._tables.append(table)

    def candidates(self, keys: Words) -> Iterator[NDArray[np.int64]]:
        """For each of m keys the number of the one of the set that it could be, int64 [m], once a table.

        A key that is in the set meets itself in one of the tables; every other meets some key that it is not.
        """
        slots = (keys >> self._shift).view(np.int64)
        for table in self._tables:
            yield table[slots]
