"""A plan for people, and for the chart."""

import math
from typing import Any

import typer

from vitrail.cli.common import print_table
from vitrail.cli.plan import constants
from vitrail.cli.plan.planned import Plan

MOST_MEASURED, MOST_SHARDS = 1_000_000, 3
MOST_OF_A_TABLE, MOST_APART = 32 * 2**40, 2**32
"""Of PostgreSQL: its documentation, appendix "Limits"; and values that are kept apart have a number of 32 bits."""
MIB, GIB = 2**20, 2**30


def values(plan: Plan) -> dict[str, Any]:
    """Values of deploy/chart."""
    memory = f"{math.ceil(plan.limit / MIB)}Mi"
    return {
        "shards": [plan.shards],
        "replicas": plan.replicas,
        "shard": {
            "resources": {
                "requests": {"cpu": 1, "memory": memory},
                "limits": {"memory": memory},
            },
            "storage": {"size": f"{math.ceil(plan.most_disk / GIB)}Gi"},
        },
    }


def show(plan: Plan) -> None:
    """Print it."""
    asked, kind, processes = plan.asked, plan.asked.kind, plan.shards * plan.replicas
    typer.echo(
        f"{asked.records:,} records of {kind.dimension:,} dimensions, {kind.metric}; shards: {plan.shards:,}, each of"
        f" up to {plan.records:,} and with {plan.replicas} processes"
    )
    rows = [
        ("memory at rest", plan.memory),
        ("memory while it builds, at most", plan.most_memory),
        (f"page cache, for {asked.cached:.0%} of the vectors", plan.cache),
        ("disk at rest", plan.disk),
        ("disk while it compacts, at most", plan.most_disk),
    ]
    table = [[what, size(each), size(processes * each)] for what, each in rows]
    table.append(["the store, PostgreSQL", "", size(plan.store)])
    print_table(["", "a process", f"all {processes:,}"], table)
    print_table(
        ["a shard process starts", "in"],
        [
            ["from its own files", duration(plan.opening_seconds)],
            ["from a snapshot, at 1 Gbit/s", duration(plan.snapshot_seconds)],
            ["from the log, with nothing else to do", duration(plan.following_seconds)],
        ],
    )
    if asked.queries:
        print_table(
            [f"for {asked.queries:,.0f} searches/s, cores {constants.BUSY:.0%} busy", "cores"],
            [
                ["each shard process", f"{plan.shard_cores:.2f}"],
                ["all coordinators", f"{plan.coordinator_cores:.1f}"],
                ["more where all search by photo", f"{plan.photo_cores:.1f}"],
            ],
        )
    for note in notes(plan):
        typer.echo(note)
    typer.echo("\nFor the chart:\n")
    typer.echo(yaml(values(plan)))


def notes(plan: Plan) -> list[str]:
    """What a reader must know of these figures."""
    said, processes = [], plan.shards * plan.replicas
    if plan.replicas > plan.asked.replicas:
        said.append(f"{plan.asked.replicas} processes of each shard are too few: one searches on one core.")
    if plan.reads:
        said.append(f"Each process reads {plan.reads:,.0f} pages from disk for a query, at least where none repeat.")
    rate = processes * plan.records / plan.following_seconds
    stored = plan.store / plan.asked.records
    said.append(f"All {processes:,} at once follow the log so fast if the store reads {size(rate * stored)} a second.")
    if plan.store > MOST_OF_A_TABLE or (plan.asked.kind.is_stored_apart and plan.asked.records > MOST_APART):
        said.append("One database of PostgreSQL cannot store that: a table has at most 32 TiB and 2^32 large values.")
    if plan.records > MOST_MEASURED:
        said.append("More than a million records in a shard were never measured: what is beyond is worked out.")
    if plan.asked.queries and plan.shards > MOST_SHARDS:
        said.append(f"More than {MOST_SHARDS} shards were never searched at once: the coordinators' CPU is worked out.")
    return said


def yaml(value: dict[str, Any], indent: str = "") -> str:
    """As YAML; there is none in the standard library."""
    lines = []
    for key, each in value.items():
        lines.append(
            f"{indent}{key}:\n{yaml(each, indent + '  ')}" if isinstance(each, dict) else f"{indent}{key}: {each}"
        )
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people."""
    units = ["MiB", "GiB", "TiB"]
    value = count / MIB
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.0f} {units[0]}" if value >= 100 else f"{value:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"
