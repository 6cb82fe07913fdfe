"""`vitrail stats`: what the store and every shard hold."""

from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import CollectionStats, PartitionStats

SHARDS = ["shard", "state", "records", "tail", "dead rows", "seq", "digest", "busy", "address", "metrics"]
INDEXES = ["shard", "recipe", "nprobe", "rerank", "recall@10", "samples", "RAM", "disk", "why"]


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
    if one.pending:
        title += f", {one.pending:,} pending"
    print_table(SHARDS, map(_shard, one.partitions), title=title)
    print_table(INDEXES, map(_index, one.partitions))
    typer.echo(f"the coordinator's metrics: {one.metrics_address}")


def _shard(partition: PartitionStats) -> list[object]:
    return [
        partition.shard,
        _state(partition),
        partition.records,
        partition.tail,
        partition.index.dead_rows,
        partition.seq,
        partition.digest,
        partition.busy,
        partition.address,
        partition.metrics_address,
    ]


def _state(partition: PartitionStats) -> str:
    if not partition.reachable:
        return "unreachable"
    return "quarantined" if partition.quarantined else partition.state


def _index(partition: PartitionStats) -> list[object]:
    index = partition.index
    return [
        partition.shard,
        partition.recipe,
        partition.nprobe,
        f"×{index.rerank_factor:g}" if index.rerank_factor else "",
        f"{index.recall:.3f}" if index.samples else "",
        f"{index.samples:,} ({index.real_samples:,} of callers)" if index.samples else "not yet",
        _size(index.index_bytes),
        _size(index.disk_bytes),
        index.reason,
    ]


def _size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
