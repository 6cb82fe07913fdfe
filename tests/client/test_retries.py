import pytest

from vitrail.client import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    VitrailError,
)
from vitrail.client.retries import Retries

FULL = Retries(4, random=lambda: 1.0)


@pytest.mark.parametrize(
    ("error", "attempt", "remaining", "pause"),
    [
        (Unavailable("gone"), 0, 10.0, 0.1),
        (Unavailable("gone"), 1, 10.0, 0.2),
        (Unavailable("gone"), 3, 10.0, 0.8),
        (Unavailable("gone"), 4, 10.0, None),
        (Unavailable("gone"), 3, 0.7, None),
        (Unavailable("gone", retry_after=2.0), 0, 10.0, 2.1),
        (Unavailable("gone", retry_after=2.0), 0, 2.0, None),
        (ResourceExhausted("queue full", retry_after=1.0), 1, 10.0, 1.2),
        (ResourceExhausted("message too large"), 0, 10.0, None),
        (InvalidArgument("wrong"), 0, 10.0, None),
        (NotFound("none"), 0, 10.0, None),
        (DeadlineExceeded("late"), 0, 10.0, None),
        (VitrailError("internal"), 0, 10.0, None),
    ],
)
def test_pause(error: VitrailError, attempt: int, remaining: float, pause: float | None) -> None:
    """Only what passes is tried again, never before the server's delay, never after the deadline."""
    assert FULL.pause(error, attempt, remaining) == (pause if pause is None else pytest.approx(pause))


def test_pauses_are_bounded_and_spread() -> None:
    """The backoff stops growing, and jitter takes up to half of it away."""
    assert Retries(100, random=lambda: 1.0).pause(Unavailable("gone"), 50, 60.0) == 5.0
    assert Retries(100, random=lambda: 0.0).pause(Unavailable("gone"), 50, 60.0) == 2.5
