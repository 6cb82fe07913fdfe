"""`vitrail stats`: what the store and every shard hold."""

from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import CollectionStats, PartitionStats

COLUMNS = [
    "shard",
    "state",
    "records",
    "tail",
    "seq",
    "busy",
    "recipe",
    "nprobe",
    "address",
    "metrics",
]


def stats(
    collection: Annotated[str | None, typer.Argument(help="All of them where not given.")] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show what the store holds of a collection, and what each shard has of it."""
    with connected(address) as client:
        names = [found.name for found in client.list_collections()] if collection is None else [collection]
        every = [client.stats(name) for name in names]
    if as_json:
        print_json(every if collection is None else every[0])
        return
    for one in every:
        _print(one)
    if not every:
        typer.echo("no collections")


def _print(one: CollectionStats) -> None:
    title = f"{one.collection.name}: {one.records:,} records of {one.collection.dimension} dimensions, seq {one.seq:,}"
    print_table(COLUMNS, map(_row, one.partitions), title=title)
    typer.echo(f"the coordinator's metrics: {one.metrics_address}")


def _row(partition: PartitionStats) -> list[object]:
    return [
        partition.shard,
        partition.state if partition.reachable else "unreachable",
        partition.records,
        partition.tail,
        partition.seq,
        partition.busy,
        partition.recipe,
        partition.nprobe,
        partition.address,
        partition.metrics_address,
    ]
