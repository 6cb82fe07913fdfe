"""The share of one worker, where several index one folder.

Which part a file is of follows from its id alone: whoever lists the folder, in whatever order and whatever has been
added to it, finds that every file is of exactly one part.
"""

from dataclasses import dataclass
from hashlib import blake2b

from vitrail.rpc.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of `of`, counted from 1.

    Raises:
        InvalidArgument: There is no such part.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InvalidArgument(f"{self.number} of {self.of} is no part: from 1 to how many there are", field="part")

    def has(self, id: str) -> bool:
        digest = blake2b(id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.number - 1
