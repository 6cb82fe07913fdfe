"""The deadline of a call, from what its caller says."""

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.server import Context

# The rest is for merging and the way back: an answer that comes when the caller has left is none.
SHARE = 0.95


def deadline_of(context: Context, default: float) -> Deadline:
    """When the work on a call must be done; `default` is in seconds, for callers that set none."""
    remaining = context.time_remaining()
    return Deadline.after(default if remaining is None else remaining * SHARE)
