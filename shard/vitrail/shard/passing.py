"""Which rows pass a filter, remembered: rows never change, so only those are looked at that came since."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from vitrail.shard.bitmap import pack
from vitrail.shard.index import Bits
from vitrail.v1.filter_pb2 import Filter

FILTERS = 32
"""So many are remembered, the latest, at a bit a row each."""


class Passing:
    """The rows of one table that pass each of the filters that were asked for lately."""

    def __init__(self, matches: Callable[[Filter, int, int], "np.ndarray[tuple[int], np.dtype[np.bool_]]"]) -> None:
        """Over `Columns.matches`."""
        self._matches = matches
        self._known: OrderedDict[bytes, Bits] = OrderedDict()
        self._lock = threading.Lock()

    def bits(self, filter: Filter, rows: int) -> Bits:
        """One bit for each of the first rows, the lowest first.

        Raises:
            ValueError: The filter cannot be evaluated here.
        """
        key = filter.SerializeToString(deterministic=True)
        with self._lock:
            known = self._known.get(key, np.zeros(0, np.uint8))
        whole = min(len(known), rows // 8)
        bits = np.concatenate([known[:whole], pack(self._matches(filter, 8 * whole, rows))])
        with self._lock:
            if len(bits) > len(known):
                self._known[key] = bits[: rows // 8]
            if key in self._known:
                self._known.move_to_end(key)
            while len(self._known) > FILTERS:
                self._known.popitem(last=False)
        return bits
