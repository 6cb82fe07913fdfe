"""Cutting what a caller gives into calls that fit a message."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vitrail.rpc.channel import MAX_MESSAGE_BYTES

T = TypeVar("T")

MESSAGE_LIMIT = MAX_MESSAGE_BYTES - 1024 * 1024
"""The largest item that may travel, alone in its message. The margin is for what surrounds it."""

BATCH_BYTES = 16 * 1024 * 1024
"""What a call is filled up to: enough for speed, little enough for the memory of both ends."""

ROWS_PER_CALL = 10_000
"""Vectors that come packed, or ids."""

ITEMS_PER_CALL = 500
"""Records and queries that may be images: a call of them should end well within its deadline."""

ITEM_OVERHEAD = 8
"""Bytes that a message adds around each item: its tag and its length."""


def batches(
    items: Iterable[T], size: Callable[[T], int], *, max_items: int, max_bytes: int = BATCH_BYTES
) -> Iterator[list[T]]:
    """Cut into runs of at most `max_items` and `max_bytes`; an item that is larger goes alone.

    Items are taken as they are needed, so that no more than one run is held at a time.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        weight = size(item) + ITEM_OVERHEAD
        if batch and (len(batch) == max_items or total + weight > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += weight
    if batch:
        yield batch
