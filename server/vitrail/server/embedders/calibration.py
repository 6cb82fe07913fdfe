"""What pays for a model on a device: measured once, and kept.

Nobody waits for it. Half or full precision is decided when the model is loaded, in a fraction of a second, and only
where the device computes in half precision at all; so is, on a CPU, whether all threads work on one batch or each has
its own. How many images go into a forward pass changes no vector, so that is measured on the batches that come anyway.
What was found stays for the next start: a photo gets the same vector then.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

import structlog
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

T = TypeVar("T")
FixedPrecision: TypeAlias = Literal["full", "half"]

log = structlog.get_logger()

ROUNDS = 5
# What is usual is left for something that is clearly faster, as a machine that does something else, too, is noisy.
CLEARLY = 1.15


class Choice(BaseModel):
    """What was found so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    of: str
    """The model, torch's version, the device and the number of threads: with any other all is measured anew."""
    precision: FixedPrecision
    threads: int = Field(ge=1)
    """That work on one batch; more workers share the others."""
    chunk: int | None = Field(default=None, ge=1, le=4096)
    """Images a forward pass; None while it is still measured."""


class Kept:
    """The file that holds the choice for one model on one device, in the user's cache directory."""

    def __init__(self, *, space: str, torch: str, device: str, threads: int) -> None:
        self.of = json.dumps([space, torch, device, threads])
        name = hashlib.sha256(self.of.encode()).hexdigest()[:16]
        self.path: Path = user_cache_path("vitrail") / "calibration" / f"{name}.json"

    def read(self) -> Choice | None:
        """None where there is none, or none that can be read."""
        try:
            choice = Choice.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return None
        return choice if choice.of == self.of else None

    def write(self, precision: FixedPrecision, threads: int, chunk: int | None = None) -> None:
        """Keep it, or measure again at the next start where nothing can be written."""
        log.info("calibrated", file=str(self.path), precision=precision, threads=threads, chunk=chunk)
        choice = Choice(of=self.of, precision=precision, threads=threads, chunk=chunk)
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_text(choice.model_dump_json())
            partial.replace(self.path)


class Trial(Generic[T]):
    """Which of a few is the fastest: they are timed in turns, and the best time of each counts."""

    def __init__(self, usual: T, others: Sequence[T]) -> None:
        self._usual = usual
        self._seconds: dict[T, list[float]] = {each: [] for each in (usual, *others)}

    @property
    def next(self) -> T:
        """What is to be timed."""
        return min(self._seconds, key=lambda each: len(self._seconds[each]))

    def took(self, each: T, seconds: float) -> None:
        self._seconds[each].append(seconds)

    def run(self, work: Callable[[T], None], seconds: float) -> None:
        """Time work with each at least once, and go on until it is over or so many seconds are."""
        end = time.monotonic() + seconds
        while not self.is_over and not (all(self._seconds.values()) and time.monotonic() > end):
            each, start = self.next, time.perf_counter()
            work(each)
            self.took(each, time.perf_counter() - start)

    @property
    def is_over(self) -> bool:
        return all(len(seconds) >= ROUNDS for seconds in self._seconds.values())

    @property
    def best(self) -> T:
        """The fastest, but the usual one unless another is clearly faster."""
        fastest = {each: min(seconds, default=float("inf")) for each, seconds in self._seconds.items()}
        other = min(fastest, key=lambda each: fastest[each])
        return other if fastest[other] * CLEARLY < fastest[self._usual] else self._usual
