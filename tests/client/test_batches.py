from collections.abc import Iterator

import pytest

from vitrail.client.batches import ITEM_OVERHEAD, batches


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([10], [[10]]),
        ([10, 10, 10], [[10, 10, 10]]),
        ([40, 40, 40], [[40, 40], [40]]),
        ([500], [[500]]),
        ([10, 500, 10], [[10], [500], [10]]),
        ([1, 1, 1, 1, 1], [[1, 1, 1], [1, 1]]),
        ([0, 0, 0, 0], [[0, 0, 0], [0]]),
    ],
)
def test_batches(sizes: list[int], expected: list[list[int]]) -> None:
    """Runs hold at most 3 items and 100 bytes; what is larger than a run goes alone; order is kept."""
    limit = 100 + 2 * ITEM_OVERHEAD
    assert list(batches(sizes, int, max_items=3, max_bytes=limit)) == expected


def test_items_are_taken_as_needed() -> None:
    """A run is given out before the items of the next but one are asked for."""
    taken = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    first = next(batches(items(), lambda _: 1, max_items=2))
    assert first == [0, 1]
    assert taken == [0, 1, 2]
