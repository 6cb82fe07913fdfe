"""`vitrail index`: a folder or a bucket of images into a collection."""

from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import Client, IndexReport, InvalidArgument
from vitrail.client.parts import Part
from vitrail.client.sources import source_of


def index(
    folder: Annotated[
        str, typer.Argument(help="A path, or s3://BUCKET/PATH or what else fsspec knows. Nested folders are included.")
    ],
    collection: Annotated[str, typer.Option("--collection", "-c", help="Created where there is none.")],
    address: Address = DEFAULT_ADDRESS,
    embedder: Annotated[str | None, typer.Option(help="For a new collection, instead of the server's default.")] = None,
    train_at: Annotated[
        int | None, typer.Option(min=1, help="Records of one shard from which on its index trains itself.")
    ] = None,
    thumbnails: Annotated[
        bool | None, typer.Option(help="Whether the collection keeps a small JPEG of each image.")
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Only part K of N, so that N workers do all of it, each file once.")
    ] = "1/1",
    as_json: AsJson = False,
) -> None:
    """Write the image files of a folder or a bucket as records.

    The id of a record is its path below the folder; the first folder of that path becomes the attribute
    "category". What the collection has already is skipped, so that an interrupted run resumes. Files that
    cannot be read are listed at the end.
    """
    number, of = _checked(folder, part)
    with connected(address) as client:
        _prepare(client, collection, embedder, train_at, thumbnails)
        report = client.index(collection, folder, part=(number, of), progress=True)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _checked(folder: str, part: str) -> tuple[int, int]:
    """Refuse what would end `client.index`, before a collection is created for it."""
    try:
        number, of = (int(word) for word in part.split("/"))
        Part(number, of)
    except (ValueError, InvalidArgument):
        raise typer.BadParameter(f"{part!r} is not K/N with K from 1 to N", param_hint="--part") from None
    try:
        source_of(folder)
    except InvalidArgument as error:
        raise typer.BadParameter(error.message, param_hint="FOLDER") from error
    return number, of


def _prepare(client: Client, name: str, embedder: str | None, train_at: int | None, thumbnails: bool | None) -> None:
    client.create_collection(name, embedder=embedder, exist_ok=True)
    if train_at is not None or thumbnails is not None:
        client.update_collection(name, train_at=train_at, thumbnails=thumbnails)


def _print(report: IndexReport) -> None:
    if report.failed:
        print_table(["file", "why"], [(error.path, error.message) for error in report.failed])
    rate = report.indexed / report.seconds if report.seconds else 0.0
    typer.echo(
        f"indexed {report.indexed:,}, skipped {report.skipped:,}, failed {len(report.failed):,} "
        f"in {report.seconds:.1f} s ({rate:,.0f} photos/s)"
    )
