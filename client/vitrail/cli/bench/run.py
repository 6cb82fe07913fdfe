"""What is measured, in this order."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitrail.cli.bench import alone as faiss
from vitrail.cli.bench import ingest, searches, sweep
from vitrail.cli.bench.alone import Alone, Timed
from vitrail.cli.bench.callers import Callers, Load
from vitrail.cli.bench.calls import Asked, How
from vitrail.cli.bench.figures import Build, Figures, Filtered, Point, Rate, Recall, Setting, Space, Target
from vitrail.cli.bench.given import Given, check
from vitrail.cli.bench.loops import percentiles
from vitrail.cli.bench.machine import cores, described, versions
from vitrail.cli.bench.progress import say
from vitrail.cli.bench.recall import recall
from vitrail.cli.bench.truth import Mask, Truth, exact
from vitrail.cli.bench.usage import Usage, addresses, usage
from vitrail.client import Client, CollectionStats, PartitionStats

DEPTHS = (1, 10, 100)
K = 10
SHARES = (0.25, 0.5, 0.75)
"""Of the throughput of the most callers: what comes in an open loop."""
RECALL_SLACK = 0.001
"""FAISS counts as equally exact down to this much below the least that the server found at any load."""
COPY_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """How long, and with how many."""

    seconds: float = 5.0
    callers: Sequence[int] = (1, 4, 16, 64)
    batch: int = 100
    keep: bool = False


@dataclass(frozen=True)
class Bench:
    """What every step needs."""

    client: Client
    callers: Callers
    name: str
    given: Given
    truth: Truth
    options: Options
    processes: dict[str, str]

    def asked(self, batch: int = 1, k: int = K, how: How | None = None) -> Asked:
        return Asked(self.name, self.given.queries, k, batch, how or How())

    def rate(self, what: str, batch: int, load: Load) -> Rate:
        say(f"the server: {what}")
        return searches.rate(self.callers, self.asked(batch), load, self.given, self.truth, self.processes, what)


def run(client: Client, given: Given, options: Options) -> Figures:
    """Measure everything. The collection that it makes is deleted, whatever happens.

    Raises:
        BenchFailed: There is nothing to measure.
        VitrailError: The server refuses.
    """
    client.list_collections()  # a server that does not answer is told of before the long work
    check(given)
    everything = np.ones(len(given.base), np.bool_)
    masks = searches.masks(len(given.base))
    truth, *filtered_truths = exact(given, max(DEPTHS), [everything, *masks])
    with (
        tempfile.TemporaryDirectory(prefix="vitrail-bench-") as directory,
        Callers(client.address) as callers,
        ingest.collection(client, given.dimension, given.metric, len(given.base), options.keep) as name,
    ):
        processes = addresses(client, name)
        bench = Bench(client, callers, name, given, truth, options, processes)
        empty = usage(processes)
        came = ingest.load(client, name, given)
        stats = client.stats(name)
        space = _space(stats, empty, usage(processes))
        threads = min(cores(), max(1, len(stats.partitions)))
        say("FAISS in process: training")
        alone = Alone(given, Path(directory), threads)
        depths = [_recall(bench, alone, k) for k in DEPTHS]
        curve = sweep.server(
            callers, bench.asked(options.batch), given, truth, sweep.lists_of(_recipes(stats)), options.seconds, say
        )
        say("FAISS's curve, in process")
        alone_curve = sweep.alone(alone, given, truth, options.batch, options.seconds)
        rates = [*_closed_loop(bench), _batched(bench)]
        # The server goes on measuring its recall meanwhile, and chooses anew.
        found = min(rate.recall or 0.0 for rate in rates) - RECALL_SLACK
        equal = sweep.as_exact(alone, given, truth, options.batch, options.seconds, found)
        singles, *batches = alone_rates = _alone_rates(bench, alone, equal, threads)
        beside = [searches.beside(rate, [singles]) for rate in rates[:-1]] + [searches.beside(rates[-1], batches)]
        opened = _open_loop(bench, max(rate.per_second for rate in rates[:-1]))
        targets = _targets(bench)
        filters = _filters(bench, [truth, *filtered_truths], [everything, *masks])
        say("searches while adding")
        adding = searches.while_adding(client, callers, bench.asked(), given, options.seconds)
    return Figures(
        setting=_setting(client, given, stats, alone, threads, options),
        ingestion=came,
        build=_with_copies(alone, curve[0]),
        space=space,
        recall=depths,
        alone=alone_rates,
        rates=beside,
        open_loop=opened,
        curve=curve,
        alone_curve=alone_curve,
        targets=targets,
        filters=filters,
        adding=adding,
    )


def _recall(bench: Bench, alone: Alone, k: int) -> Recall:
    """Recall of the defaults when so many hits are asked for."""
    say(f"recall@{k}")
    given, truth, batch = bench.given, bench.truth, bench.options.batch
    answers = bench.callers.ask(bench.asked(batch, k), Load(searches.BATCH_CALLERS, whole=True)).answers
    queries = given.comparable_queries
    parts = [alone.search(queries[start : start + batch], k) for start in range(0, len(queries), batch)]
    return Recall(k, recall(given, truth, answers.rows, k), recall(given, truth, np.concatenate(parts), k))


def _alone_rates(bench: Bench, alone: Alone, at: Point, threads: int) -> list[Rate]:
    """FAISS with the parameters of a point: single queries, batches on one thread, batches on several."""
    say("FAISS in process, as exact as the server")
    queries, batch, seconds = bench.given.comparable_queries, bench.options.batch, bench.options.seconds
    how = f"nprobe {at.nprobe}, rerank {at.rerank_factor:g}"

    def one(what: str, size: int, count: int) -> Rate:
        done = faiss.timed(
            lambda part: alone.search(part, K, at.nprobe, at.rerank_factor), queries, size, seconds, count
        )
        return _alone_rate(f"FAISS in process: {what} ({how})", done, at.recall)

    rates = [one("single queries, one thread", 1, 1), one(f"batches of {batch}, one thread", batch, 1)]
    if threads > 1:
        rates.append(one(f"batches of {batch}, {threads} threads", batch, threads))
    return rates


def _alone_rate(what: str, done: Timed, found: float) -> Rate:
    cpu = {"FAISS": 1e6 * done.cpu_seconds}
    return Rate(what, done.per_second, percentiles(done.latencies), found, cpu=cpu)


def _closed_loop(bench: Bench) -> list[Rate]:
    def one(count: int) -> Rate:
        return bench.rate(f"{count} caller{'s' if count > 1 else ''}", 1, Load(count, bench.options.seconds))

    return [one(count) for count in bench.options.callers]


def _batched(bench: Bench) -> Rate:
    callers, size = searches.BATCH_CALLERS, bench.options.batch
    return bench.rate(f"batches of {size}, {callers} callers", size, Load(callers, bench.options.seconds))


def _open_loop(bench: Bench, most: float) -> list[Rate]:
    """Calls that come at a share of the greatest throughput."""
    seconds = bench.options.seconds
    return [bench.rate(f"{share:.0%}", 1, Load(seconds=seconds, rate=share * most)) for share in SHARES if most]


def _targets(bench: Bench) -> list[Target]:
    say("target_recall")
    seconds = min(bench.options.seconds, sweep.SECONDS)
    asked = bench.asked(bench.options.batch)
    return [
        searches.target(bench.callers, asked, bench.given, bench.truth, wanted, seconds) for wanted in searches.TARGETS
    ]


def _filters(bench: Bench, truths: Sequence[Truth], masks: Sequence[Mask]) -> list[Filtered]:
    say("filters")
    seconds = min(bench.options.seconds, sweep.SECONDS)
    asked = bench.asked(bench.options.batch)
    return [
        searches.filtered(bench.callers, asked, bench.given, truth, condition, mask, seconds)
        for truth, condition, mask in zip(truths, ["", *searches.conditions()], masks, strict=True)
    ]


def _space(stats: CollectionStats, empty: Mapping[str, Usage], full: Mapping[str, Usage]) -> list[Space]:
    """What each process takes. The coordinator holds all records, a shard its own."""
    partitions = {f"shard {partition.shard}": partition for partition in stats.partitions}

    def one(process: str, before: int | None, after: int | None) -> Space:
        partition = partitions.get(process)
        records = partition.records if partition else stats.records
        grown = (after - before) / records if after is not None and before is not None and records else None
        disk = _disk(partition)
        kind = full[process].memory_kind
        return Space(process, kind, before, after, records, grown, disk / records if disk and records else None)

    return [one(process, empty[process].memory, full[process].memory) for process in full]


def _disk(partition: PartitionStats | None) -> int:
    """Bytes of a partition's files; 0 where it does not tell."""
    return getattr(getattr(partition, "index", None), "disk_bytes", 0)


def _with_copies(alone: Alone, default: Point) -> Build:
    """What a copy of as many rows as a shard reranks would allow."""
    rows = round(K * (default.rerank_factor or alone.rerank_factor))
    return replace(
        alone.build,
        reranked_copies_per_second=faiss.copies(alone.stored, rows, COPY_SECONDS),
        reranked_rows=rows,
    )


def _recipes(stats: CollectionStats) -> list[str]:
    return [partition.recipe for partition in stats.partitions]


def _setting(
    client: Client, given: Given, stats: CollectionStats, alone: Alone, threads: int, options: Options
) -> Setting:
    return Setting(
        machine=described(),
        address=client.address,
        versions={**versions(), "faiss": faiss.VERSION},
        data=given.name,
        vectors=len(given.base),
        dimension=given.dimension,
        queries=len(given.queries),
        metric=given.metric,
        shards=len(stats.partitions),
        recipe=_recipes(stats),
        alone=alone.recipe,
        threads=threads,
        batch=options.batch,
        seconds=options.seconds,
        command=" ".join(sys.argv),
    )
