"""Whose protocol is understood."""

import pytest

from vitrail.rpc import protocol
from vitrail.rpc.errors import FailedPrecondition
from vitrail.v1.types_pb2 import Program

NEXT = protocol.PROTOCOL + 1


@pytest.mark.parametrize(
    ("oldest", "neighbour", "understood"),
    [
        (protocol.OLDEST, Program(), True),
        (protocol.OLDEST, protocol.this_program(), True),
        (protocol.OLDEST, Program(version="9", protocol=NEXT), True),
        (NEXT, Program(version="9", protocol=NEXT), True),
        (NEXT, protocol.this_program(), False),
        (NEXT, Program(), False),
    ],
)
def test_who_is_understood(
    monkeypatch: pytest.MonkeyPatch, oldest: int, neighbour: Program, *, understood: bool
) -> None:
    """Each from the oldest on; what a newer one no longer understands it says itself. Untold is the first protocol."""
    monkeypatch.setattr(protocol, "OLDEST", oldest)
    if understood:
        protocol.check(neighbour, "the shard")
    else:
        with pytest.raises(
            FailedPrecondition, match=rf"the shard, of version \S+, speaks protocol 1; .* from {oldest}"
        ):
            protocol.check(neighbour, "the shard")
