"""The figures as tables for people."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitrail.cli.bench.figures import Figures, Rate
from vitrail.cli.common import PIPE_WIDTH


def show(figures: Figures) -> None:
    """Print everything."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    setting = figures.setting
    console.print(
        f"{setting.data}: {setting.vectors:,} vectors of {setting.dimension:,} dimensions, {setting.metric}, "
        f"{setting.queries:,} queries\n"
        f"server: {setting.address}, {setting.shards} shards of {', '.join(sorted(set(setting.recipe)))}\n"
        f"beside it: FAISS {setting.versions['faiss']} in process, {setting.alone}, on {setting.machine}",
        markup=False,
    )
    for table in tables(figures):
        console.print(table)


def tables(figures: Figures) -> list[Table]:
    return [
        _ingestion(figures),
        _space(figures),
        _recall(figures),
        _rates(figures),
        _open_loop(figures),
        _cpu(figures),
        _targets(figures),
        _filters(figures),
        _adding(figures),
    ]


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def times(milliseconds: tuple[float, float, float] | None) -> list[str]:
    """The three percentiles, as cells."""
    return [number(value, 1) for value in milliseconds] if milliseconds else ["", "", ""]


def _table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table: words at the left, figures at the right."""
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _ingestion(figures: Figures) -> Table:
    came, built = figures.ingestion, figures.build
    threads = figures.setting.threads
    added = built.added_on_threads_per_second

    def row(what: str, per_second: float | None, seconds: float | None) -> list[str]:
        return [what, number(per_second), number(seconds, 1), share(per_second and per_second / added)]

    vectors = figures.setting.vectors
    return _table(
        "build and ingestion",
        ["", "rows/s", "seconds", "ratio"],
        [
            row(
                "upserted durably through gRPC, one caller, with an attribute", came.upserted_per_second, came.upserted
            ),
            row("until applied by every shard", vectors / came.applied, came.applied),
            row("until trained", came.trained and vectors / came.trained, came.trained),
            row("until at rest", vectors / came.at_rest, came.at_rest),
            row(f"FAISS in process: train, {threads} threads", None, built.train_seconds),
            row("FAISS in process: add, one thread", built.added_per_second, vectors / built.added_per_second),
            row(f"FAISS in process: add, {threads} threads", added, vectors / added),
            row("FAISS in process: train, then add", vectors / _whole(figures), _whole(figures)),
            row("a plain copy in memory, float32", built.copied_per_second, vectors / built.copied_per_second),
            row(
                "a plain file, as shards store it, synced", built.written_per_second, vectors / built.written_per_second
            ),
        ],
    )


def _whole(figures: Figures) -> float:
    return figures.build.train_seconds + figures.setting.vectors / figures.build.added_on_threads_per_second


def _space(figures: Figures) -> Table:
    rows = [
        [
            space.process,
            space.kind or "not told",
            number(space.empty and space.empty / 1e6),
            number(space.full and space.full / 1e6),
            number(space.memory_per_record, 1),
            number(space.disk_per_record, 1),
        ]
        for space in figures.space
    ]
    columns = ["process", "memory", "MB when empty", "MB with all", "bytes a record above empty", "on disk a record"]
    return _table("memory and disk", columns, rows)


def _recall(figures: Figures) -> Table:
    rows = [[f"recall@{one.k}", share(one.server), share(one.alone)] for one in figures.recall]
    return _table("recall by default", ["", "server", "FAISS in process"], rows)


def _rates(figures: Figures) -> Table:
    letters = {rate.what: chr(ord("A") + place) for place, rate in enumerate(figures.alone)}
    ratios = [f"of {letter}" for letter in letters.values()]
    columns = ["", "queries/s", *ratios, "recall@10", "p50 ms", "p95", "p99", "failed"]
    rows = [_rate(rate, letters) for rate in (*figures.alone, *figures.rates)]
    built = figures.build
    copied = f"nothing but a copy of the {built.reranked_rows} rows that a shard reranks, one thread"
    rows.append([copied, number(built.reranked_copies_per_second), *[""] * (len(columns) - 2)])
    return _table("searches: closed loop, and FAISS in process at the same recall or better", columns, rows)


def _rate(rate: Rate, letters: Mapping[str, str]) -> list[str]:
    failed = number(sum(rate.errors.values())) if rate.errors else ""
    what = f"{letters[rate.what]}  {rate.what}" if rate.what in letters else rate.what
    ratios = [share(rate.ratios.get(other)) for other in letters]
    return [what, number(rate.per_second), *ratios, share(rate.recall), *times(rate.milliseconds), failed]


def _open_loop(figures: Figures) -> Table:
    columns = ["", "offered/s", "answered/s", "p50 ms", "p95", "p99", "failed", "callers late, p99 ms"]
    rows = [
        [
            rate.what,
            number(rate.offered),
            number(rate.per_second),
            *times(rate.milliseconds),
            number(sum(rate.errors.values())),
            number(rate.late, 1),
        ]
        for rate in figures.open_loop
    ]
    return _table("searches: open loop, from the moment at which each was to be made", columns, rows)


def _cpu(figures: Figures) -> Table:
    shown = [rate for rate in (*figures.alone, *figures.rates) if rate.cpu]
    processes = list(dict.fromkeys(process for rate in shown for process in rate.cpu))
    rows = [[rate.what, *(number(rate.cpu.get(process)) for process in processes)] for rate in shown]
    return _table("CPU time a query, in microseconds", ["", *processes], rows)


def _targets(figures: Figures) -> Table:
    rows = [
        [
            f"{target.asked:g}",
            share(target.recall),
            share(target.promised or None),
            number(target.nprobe),
            number(target.rerank_factor or None, 1),
            number(target.per_second),
            target.error,
        ]
        for target in figures.targets
    ]
    columns = ["asked", "measured", "told by the server", "nprobe", "rerank", "queries/s", "error"]
    return _table("target_recall", columns, rows)


def _filters(figures: Figures) -> Table:
    rows = [
        [
            one.condition or "(none)",
            f"{one.passing:.4%}",
            share(one.recall),
            number(one.per_second) if not one.error else "",
            "exact" if one.exact else number(one.nprobe) if not one.error else "",
            one.error,
        ]
        for one in figures.filters
    ]
    columns = ["filter", "passing", "recall@10", "queries/s", "nprobe", "error"]
    return _table("filters, in batches", columns, rows)


def _adding(figures: Figures) -> Table:
    adding = figures.adding
    ratio = adding.adding[2] / adding.idle[2] if adding.adding and adding.idle else None
    rows = [
        ["one caller, idle", *times(adding.idle), ""],
        [
            f"one caller, {adding.rows_per_second:,.0f} rows/s coming in ({adding.calls:,} calls)",
            *times(adding.adding),
            number(ratio, 2),
        ],
    ]
    return _table("searches while adding", ["", "p50 ms", "p95", "p99", "p99 ratio"], rows)
