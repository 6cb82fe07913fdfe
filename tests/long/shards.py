"""Shards that are killed or stand still, with a replica and without."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.e2e.parts import Parts, Place, wait_serving
from tests.e2e.running import eventually, scrape, wait_applied
from tests.e2e.searching import Searching, Seen
from tests.long.table import Row, counted, seeds_from
from tests.shard.rows import clustered
from vitrail.cli.bench.callers import Callers, Load
from vitrail.cli.bench.calls import Asked
from vitrail.cli.bench.loops import percentiles
from vitrail.client import Client

NAME, RECORDS, DIMENSION = "c", 10_000, 64
SHARDS = 2
CALLERS = 3
TIMEOUT = 2.0
"""Seconds of each search."""
QUESTIONS = 'vitrail_batch_size_items_count{queue="search"}'
EXTRA = ("vitrail_hedges_total", "vitrail_failovers_total")


def replica_killed(directory: Path, seeds: range) -> Row:
    """Kill one of two replicas of a shard, again and again, each time a random one, while callers search."""
    with _serving(directory, replicas=2) as (parts, client):
        before = _extra(client)
        searching = _callers(parts)
        for seed in seeds:
            chance = random.Random(seed)
            searching[0].go_on(chance.randrange(20))
            victim = chance.choice(list(parts.shards))
            parts.shards[victim].end()
            searching[0].go_on(20)
            parts.start_shard(victim)
            eventually(lambda: all(partition.reachable for partition in client.stats(NAME).partitions))
            wait_applied(client, NAME)
        seen = _ended(searching)
        extra = _extra(client) - before
    faults = [each.fault for each in seen if each.fault]
    return Row(
        "a shard with one replica: kill -9 of one of the two, at a random moment, while it is searched",
        seeds_from(seeds),
        "full coverage goes on, and no caller sees an error",
        f"{len(seen):,} searches, {len(faults)} failed or covered less; {extra:.0f} extra questions to replicas",
        not faults and len(seen) > 20 * len(seeds),
    )


def shard_killed(directory: Path, seconds: float) -> Row:
    """Kill a shard that has no replica, and start it again after a while."""
    with _serving(directory) as (parts, _):
        searching, demanding = _callers(parts), _callers(parts, min_coverage=1.0)
        victim = parts.shards[Place(0, SHARDS)]
        victim.end()
        killed = time.monotonic()
        time.sleep(seconds)
        back = time.monotonic()
        parts.start_shard(Place(0, SHARDS))
        eventually(lambda: searching[0].seen[-1].coverage == 1)
        healed = time.monotonic() - back
        seen, refused = _ended(searching), _ended(demanding)
    gone = [each for each in seen if killed <= each.at < back]
    refused = [each for each in refused if killed <= each.at < back]
    failures = [each.failure for each in seen if each.failure]
    kinds = Counter(each.failure.partition("(")[0] for each in refused)
    slowest = max(each.seconds for each in (*gone, *refused))
    return Row(
        f"a shard without a replica: kill -9, started again after {seconds:.0f} s",
        "",
        f"answers are partial, declared, and within their deadline of {TIMEOUT:.0f} s; below `min_coverage`"
        " UNAVAILABLE; all heals by itself",
        f"{len(gone):,} searches while it was gone, {len(failures)} failed, coverage"
        f" {min(each.coverage for each in gone):.2f} to {max(each.coverage for each in gone):.2f};"
        f" {len(refused):,} that asked for full coverage: {counted(kinds)}; within {slowest:.2f} s;"
        f" full coverage {healed:.1f} s after the start",
        not failures
        and all(each.coverage < 1 for each in gone)
        and set(kinds) == {"Unavailable"}
        and slowest < TIMEOUT,
    )


def replica_stopped(directory: Path, rate: float, seconds: float) -> Row:
    """Stop one of two replicas of a shard with SIGSTOP, under a load that comes when it comes."""
    with _serving(directory, replicas=2) as (parts, client), Callers(parts.address) as callers:
        asked = Asked(NAME, clustered(1000, DIMENSION, seed=9))
        load = Load(rate=rate, seconds=seconds)
        callers.ask(asked, Load(rate=rate, seconds=min(5.0, seconds)))  # until it is warm
        healthy = callers.ask(asked, load)
        extra, questions = _extra(client), _questions(client)
        victim = parts.shards[Place(0, SHARDS)]
        callers.begin(asked, load)
        victim.send(signal.SIGSTOP)
        try:
            stopped = callers.end()
        finally:
            victim.send(signal.SIGCONT)
        share = (_extra(client) - extra) / (_questions(client) - questions)
    p99s = [(percentiles(each.log.latencies) or (np.nan,) * 3)[2] for each in (healthy, stopped)]
    ratio = p99s[1] / p99s[0]
    return Row(
        f"a shard with one replica: one of the two stopped with SIGSTOP for {seconds:.0f} s, {rate:.0f} searches/s",
        "",
        "p99 at most 1.5 × healthy, extra questions at most 5%, full coverage and no error",
        f"p99 {p99s[1]:.1f} ms, healthy {p99s[0]:.1f} ms: × {ratio:.2f}; {share:.2%} extra questions;"
        f" {stopped.failed} of {len(stopped.log.latencies):,} searches failed, least coverage"
        f" {stopped.answers.coverage:.2f}",
        ratio <= 1.5 and share <= 0.05 and not stopped.failed and stopped.answers.coverage == 1,
    )


@contextmanager
def _serving(directory: Path, replicas: int = 1) -> Iterator[tuple[Parts, Client]]:
    """A cluster with records, all of them searched by every replica."""
    with Parts(directory, str(directory / "store"), [SHARDS], replicas=replicas) as parts:
        parts.start_coordinator()
        parts.start_layout(SHARDS)
        with Client(parts.address, timeout=60) as client:
            client.create_collection(NAME, dimension=DIMENSION)
            client.upsert(NAME, ids=[str(row) for row in range(RECORDS)], vectors=clustered(RECORDS, DIMENSION))
            wait_serving(client, SHARDS)
            wait_applied(client, NAME)
            yield parts, client


def _callers(parts: Parts, min_coverage: float = 0.0) -> list[Searching]:
    queries = clustered(100, DIMENSION, seed=9)
    return [Searching(parts.address, NAME, queries, timeout=TIMEOUT, min_coverage=min_coverage) for _ in range(CALLERS)]


def _ended(searching: list[Searching]) -> list[Seen]:
    for each in searching:
        each.stop()
    return [seen for each in searching for seen in each.seen]


def _extra(client: Client) -> float:
    """Questions to a second replica so far."""
    metrics = scrape(client.stats(NAME).metrics_address)
    return sum(metrics[name] for name in EXTRA)


def _questions(client: Client) -> float:
    """Questions to shards so far, but for extra ones."""
    return SHARDS * scrape(client.stats(NAME).metrics_address)[QUESTIONS]
