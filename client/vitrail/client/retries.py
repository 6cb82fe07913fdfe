"""Whether a call that failed is tried again, and when.

Every call of the SDK may be repeated: an upsert replaces by id, a deletion of what is gone deletes nothing.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from vitrail.rpc.errors import ResourceExhausted, Unavailable, VitrailError

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff with jitter, never below what the server asks for, never past the deadline.

    Attributes:
        limit: How many times a call is repeated at most.
        random: Uniform in 0 to 1.
    """

    limit: int
    random: Callable[[], float] = random.random

    def pause(self, error: VitrailError, attempt: int, remaining: float) -> float | None:
        """Seconds to wait before the next attempt, or None: the error stands.

        Args:
            error: Why the call failed.
            attempt: How many repetitions went before, 0 after the first failure.
            remaining: Seconds until the deadline.
        """
        if attempt >= self.limit or not is_passing(error):
            return None
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * (0.5 + self.random() / 2)
        pause = backoff if error.retry_after is None else error.retry_after + backoff * self.random()
        return pause if pause < remaining else None


def is_passing(error: VitrailError) -> bool:
    """Whether another try may succeed. A message over the limit is exhaustion too, but it stays so."""
    if isinstance(error, ResourceExhausted):
        return error.retry_after is not None
    return isinstance(error, Unavailable)
