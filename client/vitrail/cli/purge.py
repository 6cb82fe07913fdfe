"""`vitrail purge`: leave nothing of what was deleted, and say so."""

from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import PurgeReport


def purge(
    collection: str,
    timeout: Annotated[float, typer.Option(help="Seconds until what is left is reported.", min=0)] = 300.0,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Leave nothing of deleted and replaced records, in the store and in shards.

    Files are written anew, which takes as long as copying them. Ends with an error where something is left.
    """
    said = ""

    def tell(report: PurgeReport) -> None:
        nonlocal said
        now = ", ".join(f"{each.where} ({each.why})" for each in report.remains)
        if now and now != said:
            typer.echo(f"left: {now}", err=True)
        said = now

    with connected(address) as client:
        report = client.purge(collection, timeout=timeout, on_progress=tell)
    if as_json:
        print_json(report)
    else:
        _print(collection, report)
    if not report.done:
        raise typer.Exit(1)


def _print(collection: str, report: PurgeReport) -> None:
    of_what = f"of what was deleted or replaced in {collection} up to {report.seq:,}"
    if report.done:
        typer.echo(f"nothing is left {of_what}")
    else:
        print_table(["where", "why"], [(each.where, each.why) for each in report.remains], title=f"left {of_what}")
    for note in report.notes:
        typer.echo(f"not looked into: {note}")
