"""Writers that keep what they were told of each call, to compare it with what is there afterwards."""

import random
import threading
from dataclasses import dataclass, fields

import numpy as np

from vitrail.client import Client, VitrailError

NAME = "c"
DIMENSION = 16
IDS = 400
"""Of each writer, which are written over and over."""
LARGEST = 40
"""Records of one call."""
DELETING, WITH_BAD = 0.25, 0.1
"""Shares of the calls: that delete; that bring a record, too, which is refused, since its vector has no direction."""

State = dict[str, int | None]
"""Of each id the `n` that its record has, which is the number of the call that wrote it; None where there is none."""


@dataclass
class Found:
    """What comparing came to."""

    acknowledged: int = 0
    """Calls."""
    committed: int = 0
    """Calls that had no answer, and are there."""
    absent: int = 0
    """Calls that had no answer, and are not there."""
    halved: int = 0
    """Calls that had no answer, of which a part is there."""
    lost: int = 0
    """Acknowledged records and deletions that are not there."""
    appeared: int = 0
    """Records that are there, and were refused."""
    double: int = 0
    """Records that a shard holds twice, or two shards."""
    missing: int = 0
    """Records that only the store holds, or only a shard."""

    def add(self, other: "Found") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def is_whole(self) -> bool:
        return not (self.lost or self.halved or self.appeared or self.double or self.missing)

    def __str__(self) -> str:
        return (
            f"{self.acknowledged:,} calls acknowledged, {self.lost} of their records lost; {self.committed} without an"
            f" answer there, {self.absent} not, {self.halved} half; {self.appeared} refused ones appeared,"
            f" {self.double} double, {self.missing} missing in shards"
        )


class Writer:
    """One caller, who writes ids that nobody else does, and retries nothing."""

    def __init__(self, prefix: str, address: str) -> None:
        self.prefix = prefix
        self._address = address
        self._own = [f"{prefix}{number}" for number in range(IDS)]
        self._state: State = dict.fromkeys(self._own)
        self._acknowledged = 0
        self._unanswered: State = {}
        self._calls = 0

    def run(self, seed: int, ended: threading.Event) -> None:
        """Write until told to stop, or until a call has no answer."""
        chance = random.Random(f"{self.prefix} {seed}")
        with Client(self._address, retries=0, timeout=10) as client:
            while not ended.is_set():
                self._calls += 1
                n = None if chance.random() < DELETING else self._calls
                wrote: State = dict.fromkeys(chance.sample(self._own, chance.randint(1, LARGEST)), n)
                try:
                    self._call(client, wrote, n, with_bad=chance.random() < WITH_BAD)
                except VitrailError:
                    self._unanswered = wrote
                    return
                self._state |= wrote
                self._acknowledged += 1

    def compare(self, there: State) -> Found:
        """Compare what is there with what was acknowledged, and go on from it."""
        mine = {name: n for name, n in there.items() if name.startswith(self.prefix)}
        found = Found(acknowledged=self._acknowledged, appeared=len(mine.keys() - self._state.keys()))
        found.lost = sum(mine.get(name) != n for name, n in self._state.items() if name not in self._unanswered)
        if self._unanswered:
            was = {name: self._state[name] for name in self._unanswered}
            now = {name: mine.get(name) for name in self._unanswered}
            found.committed = int(now == self._unanswered)
            found.absent = int(now == was != self._unanswered)
            found.halved = 1 - found.committed - found.absent
        self._state = {name: mine.get(name) for name in self._own}
        self._acknowledged, self._unanswered = 0, {}
        return found

    def _call(self, client: Client, wrote: State, n: int | None, with_bad: bool) -> None:
        if n is None:
            client.delete(NAME, ids=wrote)
            return
        bad = [f"{self.prefix}bad"] * with_bad
        vectors = np.random.default_rng(n).normal(size=(len(wrote) + with_bad, DIMENSION)).astype(np.float32)
        vectors[len(wrote) :] = 0
        ids = [*wrote, *bad]
        refused = client.upsert(NAME, ids=ids, vectors=vectors, attributes=[{"n": n}] * len(ids)).errors
        assert [error.id for error in refused] == bad
