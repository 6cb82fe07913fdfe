"""Which photos are in which batch."""

from collections import Counter

import pytest

from vitrail.training.loading import Plan

CLASSES = [0] * 5 + [1] * 12 + [2]


def test_every_photo_once_an_epoch() -> None:
    plan = Plan(CLASSES, batch=6, per_class=1, seed=1)
    batches = list(plan.batches(0))
    assert [len(batch) for batch in batches] == [6, 6, 6]
    assert sorted(draw.photo for batch in batches for draw in batch) == list(range(18))
    assert list(plan.batches(0)) == batches != list(plan.batches(1))


def test_classes_come_together() -> None:
    """Photos of a class that has too few come twice, and are augmented otherwise."""
    plan = Plan(CLASSES, batch=8, per_class=4, seed=1)
    draws = [draw for batch in plan.batches(0) for draw in batch]
    for start in range(0, len(draws), 4):
        assert len({CLASSES[draw.photo] for draw in draws[start : start + 4]}) == 1
    assert len(set(draws)) == len(draws)
    assert plan.steps == 3  # 2 groups of class 0, 3 of class 1, and 1 of class 2, by two
    assert Counter(draw.photo for draw in draws)[17] == 4


def test_fewer_photos_than_a_batch() -> None:
    assert [len(batch) for batch in Plan([0, 1, 1], batch=32, per_class=1, seed=1).batches(0)] == [3]


@pytest.mark.parametrize("step", [0, 2, 3, 7, 9])
def test_goes_on_anywhere(step: int) -> None:
    plan = Plan(CLASSES, batch=6, per_class=1, seed=1)
    assert list(plan.after(step, epochs=3)) == list(plan.after(0, epochs=3))[step:]
