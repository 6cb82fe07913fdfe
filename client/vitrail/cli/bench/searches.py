"""Searches of the server: rates, promises of recall, filters, and searches while rows come in."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vitrail.cli.bench.callers import Answered, Callers, Load
from vitrail.cli.bench.calls import Asked, How
from vitrail.cli.bench.figures import Adding, Filtered, Rate, Target
from vitrail.cli.bench.given import Given
from vitrail.cli.bench.ingest import ATTRIBUTE, VALUES, upsert, values, wait_applied
from vitrail.cli.bench.loops import percentiles
from vitrail.cli.bench.recall import recall
from vitrail.cli.bench.truth import Mask, Truth
from vitrail.cli.bench.usage import cpu_used, usage
from vitrail.client import Client

CLIENT = "client"
WARM_UP_SECONDS = 0.5
BATCH_CALLERS = 2

TARGETS = (0.8, 0.9, 0.95, 0.99)
PASSING = (0.1, 0.01, 0.001, 0.0001)
SCORE_TOLERANCE = 1e-3
"""What a stored half-precision score may lack, and still count."""

ADDED_SHARE = 0.2
ADDED_ROWS = 500
"""Rows of one call while searches go on."""


def rate(
    callers: Callers, asked: Asked, load: Load, given: Given, truth: Truth, processes: Mapping[str, str], what: str
) -> Rate:
    """Put a load on the server, and see what it cost each process."""
    callers.ask(asked, Load(load.callers, min(WARM_UP_SECONDS, load.seconds)))
    before = usage(processes)
    answered = callers.ask(asked, load)
    used: dict[str, float | None] = {CLIENT: answered.cpu_seconds, **cpu_used(before, usage(processes))}
    return Rate(
        what,
        answered.per_second,
        percentiles(answered.log.latencies),
        recall(given, truth, answered.answers.rows, asked.k),
        offered=load.rate,
        late=None if load.rate is None else _p99(answered),
        errors=dict(answered.answers.errors),
        cpu={process: _microseconds(seconds, answered.answers.queries) for process, seconds in used.items()},
    )


def target(callers: Callers, asked: Asked, given: Given, truth: Truth, wanted: float, seconds: float) -> Target:
    """Ask for a recall, and see what comes."""
    one = Asked(asked.collection, asked.queries, asked.k, asked.batch, How(target_recall=wanted))
    answered = callers.ask(one, Load(BATCH_CALLERS, seconds, whole=True))
    answers = answered.answers
    found = recall(given, truth, answers.rows, asked.k)
    return Target(
        wanted, found, answers.recall, answers.nprobe, answers.rerank_factor, answered.per_second, _error(answered)
    )


def conditions() -> list[str]:
    return [f"{ATTRIBUTE} < {round(share * VALUES)}" for share in PASSING]


def masks(rows: int) -> list[Mask]:
    """The rows that meet each condition."""
    drawn = values(rows)
    return [drawn < round(share * VALUES) for share in PASSING]


def filtered(
    callers: Callers, asked: Asked, given: Given, truth: Truth, condition: str, mask: Mask, seconds: float
) -> Filtered:
    """Search among the records that meet a condition."""
    one = Asked(asked.collection, asked.queries, asked.k, asked.batch, filter=condition)
    answered = callers.ask(one, Load(BATCH_CALLERS, seconds, whole=True))
    answers, passing = answered.answers, float(mask.mean())
    error = _error(answered)
    hits = answers.rows[answers.rows >= 0]
    if not error and not mask[hits].all():
        error = "the server does not filter: there are hits that do not meet the condition"
    if error:
        return Filtered(condition, passing, error=error)
    found = recall(given, truth, answers.rows, asked.k, SCORE_TOLERANCE)
    return Filtered(condition, passing, found, answered.per_second, answers.nprobe, answers.exact)


def while_adding(client: Client, callers: Callers, asked: Asked, given: Given, seconds: float) -> Adding:
    """One caller alone, and then while a fifth more rows come in, as fast as they go and for four times as long."""
    idle = callers.ask(asked, Load(1, seconds))
    callers.begin(asked, Load(1, STILL_ASKING))
    try:
        began, clock = time.time(), time.monotonic()
        added = _add(client, asked.collection, given, clock + 4 * seconds)
        rows_per_second = added / (time.monotonic() - clock)
        wait_applied(client, asked.collection)
        ended = time.time()
    finally:
        callers.stop()
        answered = callers.end()
    latencies = answered.during(began, ended)
    return Adding(percentiles(idle.log.latencies), percentiles(latencies), len(latencies), rows_per_second)


STILL_ASKING = 24 * 3600.0
"""Until it is told to stop."""


def _add(client: Client, name: str, given: Given, until: float) -> int:
    """Upsert the first rows again under other ids, from beyond those that are there; returns how many."""
    count = max(1, int(len(given.base) * ADDED_SHARE))
    attributes = values(count)
    for start in range(0, count, ADDED_ROWS):
        if time.monotonic() > until:
            return start
        some = slice(start, min(start + ADDED_ROWS, count))
        block = np.asarray(given.base[some], np.float32)
        upsert(client, name, block, len(given.base) + start, attributes[some])
    return count


def beside(rate: Rate, alone: Sequence[Rate]) -> Rate:
    """The same rate with its ratios to some of FAISS's."""
    return replace(rate, ratios={other.what: rate.per_second / other.per_second for other in alone})


def _error(answered: Answered) -> str:
    """The commonest error; empty where there was none."""
    common = answered.answers.errors.most_common(1)
    return common[0][0] if common else ""


def _p99(answered: Answered) -> float | None:
    found = percentiles(answered.log.late)
    return found[2] if found else None


def _microseconds(seconds: float | None, queries: int) -> float | None:
    return None if seconds is None or not queries else 1e6 * seconds / queries
