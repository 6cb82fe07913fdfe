"""`vitrail export` and `vitrail import`: a collection as a Parquet file."""

from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, needs, print_json, print_table
from vitrail.client import ImportReport


def export(
    collection: str,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="One that is there is replaced.")],
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Write a collection to a Parquet file, for backup and for moving.

    Each record is as it was when it was read; those written or deleted meanwhile may or may not be in the file. For
    all records at one point in time, back up the database.
    """
    with connected(address) as client:
        try:
            report = client.export(collection, file, progress=True)
        except ImportError as error:
            needs("parquet", error)
    if as_json:
        print_json(report)
    else:
        rate = report.records / report.seconds
        typer.echo(
            f"exported {report.records:,} records, {report.bytes:,} bytes in {report.seconds:.1f} s ({rate:,.0f}/s)"
        )


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Instead of the one that the file was exported from.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Write the rows of a Parquet file as records.

    A file of `vitrail export` makes its collection where there is none. Any other one needs the columns id and vector,
    and a collection that exists. A run that was interrupted can be repeated. Rows that are refused are listed at the
    end, the first 1,000 of them; the exit code is then 1.
    """
    with connected(address) as client:
        try:
            report = client.import_(file, collection, progress=True)
        except ImportError as error:
            needs("parquet", error)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.failed:
        raise typer.Exit(1)


def _print(report: ImportReport) -> None:
    if report.errors:
        rows = [
            (error.index, error.id, ": ".join(filter(None, (error.field, error.message)))) for error in report.errors
        ]
        print_table(["row", "id", "why"], rows)
    rate = report.imported / report.seconds
    typer.echo(
        f"imported {report.imported:,} into {report.collection!r}, failed {report.failed:,} "
        f"in {report.seconds:.1f} s ({rate:,.0f}/s)"
    )
