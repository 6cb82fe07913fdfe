import time

from vitrail.rpc.deadline import Deadline


def test_a_deadline_counts_down() -> None:
    """What remains is what was given, less what has passed."""
    deadline = Deadline.after(60)
    assert 59 < deadline.remaining <= 60
    assert not deadline.expired


def test_a_deadline_stays_at_zero() -> None:
    """What remains is never negative, however long ago it was."""
    past = Deadline(time.monotonic() - 1)
    assert (past.remaining, past.expired) == (0.0, True)
    assert Deadline.after(-5).remaining == 0.0
