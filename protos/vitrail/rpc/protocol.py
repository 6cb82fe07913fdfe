"""What the processes of a cluster say to each other: which protocol, and whose they understand.

A rolling update mixes versions for a while. Fields that are added are read by who knows them, and need no number. Where
a neighbour of before would not understand, PROTOCOL counts on; where this version no longer understands one of before,
OLDEST does. The newer of two knows whether they can talk, so each side tells its own and looks at the other's.
"""

import importlib.metadata

from vitrail.rpc.errors import FailedPrecondition
from vitrail.v1.types_pb2 import Program

VERSION = importlib.metadata.version("vitrail")
PROTOCOL = 1
OLDEST = 1
"""The oldest protocol that this version understands."""
UNTOLD = 1
"""That of processes which do not tell it yet."""


def this_program() -> Program:
    """What runs here, as neighbours are told."""
    return Program(version=VERSION, protocol=PROTOCOL)


def check(neighbour: Program, who: str) -> None:
    """See that a neighbour can be understood.

    Raises:
        FailedPrecondition: Its protocol is too old.
    """
    spoken = neighbour.protocol or UNTOLD
    if spoken < OLDEST:
        raise FailedPrecondition(
            f"{who}, of version {neighbour.version or 'unknown'}, speaks protocol {spoken}; "
            f"version {VERSION} understands those from {OLDEST} to {PROTOCOL}"
        )
