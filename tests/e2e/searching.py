"""Somebody who searches all the while, and what came of each search."""

import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tests.e2e.running import eventually
from vitrail.client import Client, VitrailError


class Seen(NamedTuple):
    """One search: when it began (time.monotonic), how long it took, and what came back."""

    at: float
    seconds: float
    failure: str = ""
    coverage: float = 0.0
    layout: int = 0
    """How many shards the layout has that answered."""
    first: str = ""
    """The id of the best hit."""

    @property
    def fault(self) -> str:
        """What a caller misses, or empty."""
        return self.failure or ("" if self.coverage == 1 else f"coverage {self.coverage:.3f}")


class Searching:
    """One caller, in a thread; the query of search i is i modulo their number. Retries nothing: it sees what is said.

    Args:
        address: Of the coordinator.
        name: Of the collection.
        queries: float32 [q, d].
        timeout: Seconds of each call.
        pause: Seconds between two calls.
        min_coverage: What each search asks for.
    """

    def __init__(
        self,
        address: str,
        name: str,
        queries: NDArray[np.float32],
        *,
        timeout: float = 10.0,
        pause: float = 0.01,
        min_coverage: float = 0.0,
    ) -> None:
        self.seen: list[Seen] = []
        self._address, self._name, self._queries = address, name, queries
        self._timeout, self._pause, self._min_coverage = timeout, pause, min_coverage
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)  # a test that failed does not stop it
        self._thread.start()

    @property
    def faults(self) -> list[str]:
        """What was missed, by all searches so far."""
        return [seen.fault for seen in self.seen if seen.fault]

    def since(self, moment: float) -> list[Seen]:
        """Searches that began then or later."""
        return [seen for seen in self.seen if seen.at >= moment]

    def go_on(self, searches: int) -> None:
        """Wait for so many more."""
        before = len(self.seen)
        eventually(lambda: len(self.seen) >= before + searches)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with Client(self._address, timeout=self._timeout, retries=0) as client:
            while not self._ended.wait(self._pause):
                self.seen.append(self._search(client, self._queries[len(self.seen) % len(self._queries)]))

    def _search(self, client: Client, query: NDArray[np.float32]) -> Seen:
        began = time.monotonic()
        try:
            found = client.search(self._name, vector=query, min_coverage=self._min_coverage)
        except VitrailError as error:
            return Seen(began, time.monotonic() - began, repr(error))
        first = found.hits[0].id if found.hits else ""
        covered = found.coverage
        return Seen(began, time.monotonic() - began, "", covered.fraction, covered.shards_total, first)
