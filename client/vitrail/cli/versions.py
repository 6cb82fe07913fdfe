"""`vitrail versions` and `vitrail reembed`: a collection moves into another embedding space while it serves."""

from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.catalog import MetricName
from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import Client, FailedPrecondition, FillReport, Version

COLUMNS = ["version", "state", "records", "pending", "dimension", "metric", "embedder", "created"]
PATIENCE = 3600.0
"""Seconds for shards to train what is to serve."""


def versions(
    collection: str,
    activate: Annotated[int | None, typer.Option(help="Have the name stand for this version.")] = None,
    delete: Annotated[int | None, typer.Option(help="Delete this version, which must not serve.")] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show the versions of a collection, and how many of their vectors are still to be made."""
    with connected(address) as client:
        if activate is not None:
            client.activate_version(collection, activate, timeout=PATIENCE)
        if delete is not None:
            client.delete_version(collection, delete)
        every = client.versions(collection)
    if as_json:
        print_json(every)
    else:
        print_table(COLUMNS, map(_row, every))


def reembed(
    collection: str,
    embedder: Annotated[str | None, typer.Option(help="Of the new version; the server's default if none.")] = None,
    dimension: Annotated[int | None, typer.Option(help="For vectors that callers bring.")] = None,
    metric: Annotated[MetricName | None, typer.Option(help="Instead of that of the version that serves.")] = None,
    version: Annotated[int | None, typer.Option(help="Go on with this one instead of making a new one.")] = None,
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="The folder that was indexed.")
    ] = None,
    activate: Annotated[bool, typer.Option("--activate", help="Have the name stand for it at the end.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Make another version of a collection, in another embedding space, and fill it.

    It is filled from the images that the collection keeps, or from the folder that was indexed; where callers bring
    vectors, by them. Meanwhile the collection serves and is written to as before.
    """
    with connected(address) as client:
        if version is None:
            chosen = None if metric is None else metric.value
            version = client.create_version(collection, embedder=embedder, dimension=dimension, metric=chosen).version
        name = f"{collection}@{version}"
        report = FillReport(0, ())
        if client.get_collection(name).embedder:
            report = client.fill(name, images)
        if activate:
            _activate(client, collection, version, images)
    if as_json:
        print_json({"collection": name, "filled": report.filled, "errors": report.errors})
        return
    if report.errors:
        print_table(["id", "why"], [(error.id, error.message) for error in report.errors])
    typer.echo(f"{name}: filled {report.filled:,}, failed {len(report.errors):,}")


def _activate(client: Client, collection: str, version: int, images: Path | None) -> None:
    """Flip, and fill again what was written since the last round for as long as that helps."""
    while True:
        try:
            client.activate_version(collection, version, timeout=PATIENCE)
        except FailedPrecondition:
            if not client.fill(f"{collection}@{version}", images).filled:
                raise
        else:
            return


def _row(one: Version) -> list[object]:
    made = one.collection
    return [
        made.version,
        "serves" if made.serves else "pending" if one.pending else "ready",
        one.records,
        one.pending,
        made.dimension,
        made.metric,
        made.embedder or "(vectors)",
        f"{made.created:%Y-%m-%d %H:%M}",
    ]
