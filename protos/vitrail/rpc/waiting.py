"""What a process waits for before it can go on: said once, then now and then, and shown as a metric."""

import time

import structlog
from prometheus_client import Gauge

log = structlog.get_logger()

WAITING = Gauge("vitrail_waiting", "1 while the process waits for this before it can go on.", ["for"])
AGAIN_SECONDS = 30.0


class Waiting:
    """Waiting for one thing; not yet."""

    def __init__(self, what: str) -> None:
        """Name what may be waited for, as the metric does."""
        self._what = what
        self._began: float | None = None
        self._said = 0.0
        WAITING.labels(what).set(0)

    def because(self, why: str) -> None:
        """It is still not there."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            WAITING.labels(self._what).set(1)
        elif now - self._said < AGAIN_SECONDS:
            return
        self._said = now
        log.warning(f"waiting for the {self._what}", why=why, seconds=round(now - self._began))

    def over(self) -> None:
        """It is there."""
        if self._began is not None:
            log.info(f"no longer waiting for the {self._what}", seconds=round(time.monotonic() - self._began))
            WAITING.labels(self._what).set(0)
            self._began = None
