"""`vitrail dataset`: what is in a set of photos, and a table of it to learn from and to measure on."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, fail, needs, print_json, print_table
from vitrail.client import VitrailError
from vitrail.client.progress import bar

if TYPE_CHECKING:
    from vitrail.training.photos import Photos
    from vitrail.training.preparing import Prepared
    from vitrail.training.vectors import Vectors

TORCHVISION, COLLECTION = "torchvision:", "collection:"


def dataset(
    where: Annotated[
        str,
        typer.Argument(
            help="A folder or a bucket of class folders, perhaps in train, validation and test; a table "
            "(path,label,split); torchvision:CIFAR10; collection:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where photos.csv, dataset.json and report.html are written.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out of the table what is unreadable, a copy, or of two labels.")
    ] = False,
    split: Annotated[
        str, typer.Option(help="Shares of train,validation,test: split anew. Else only where there are no splits.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    embedder: Annotated[str, typer.Option(help="Whose vectors find what is alike; of a collection its own do.")] = "",
    photos: Annotated[str, typer.Option(help="What the paths of a table are relative to.")] = "",
    label: Annotated[str, typer.Option(help="The attribute of a collection that is the label.")] = "category",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Find unreadable photos, duplicates within and across splits, two labels of one picture, outliers; split.

    No picture is in two of the splits that are made.
    Photos themselves are never touched. Of a torchvision data set or a collection they are written to OUT/photos.
    """
    try:
        from vitrail.server.config import DEFAULT_EMBEDDER
        from vitrail.server.embedders.hub import NoSuchEmbedder
        from vitrail.training.preparing import Settings, prepare
        from vitrail.training.splitting import shares
    except ImportError as error:
        needs("train", error)
    try:
        whose = "" if where.startswith(COLLECTION) else embedder or DEFAULT_EMBEDDER
        settings = Settings(where, whose, shares(split) if split else None, seed, clean)
        out.mkdir(parents=True, exist_ok=True)
        found, vectors = _found(where, out, photos, label, address)
        prepared = prepare(found, settings, out, vectors, threads=os.cpu_count() or 1)
    except (VitrailError, NoSuchEmbedder, OSError) as error:
        fail(str(error))
    print_json(prepared.figures()) if as_json else _print(prepared, out)


def _found(where: str, out: Path, folder: str, label: str, address: str) -> "tuple[Photos, Vectors | None]":
    from vitrail.training.fetching import of_collection, of_torchvision
    from vitrail.training.photos import read_photos

    if where.startswith(TORCHVISION):
        with bar("writing photos", 0, shown=True) as show:
            data = where.removeprefix(TORCHVISION)
            return of_torchvision(data, out / "torchvision", out / "photos", show), None
    if where.startswith(COLLECTION):
        name = where.removeprefix(COLLECTION)
        with connected(address) as client, bar("fetching", client.stats(name).records, shown=True) as show:
            return of_collection(client, name, label, out / "photos", show)
    return read_photos(where, folder or None), None


def _print(prepared: "Prepared", out: Path) -> None:
    for warning in prepared.warnings:
        typer.echo(f"warning: {warning}", err=True)
    failed = prepared.findings.failed
    if failed:
        print_table(["file", "why"], [(error.path, error.message) for error in failed[:20]])
    print_table(["found", "how many"], prepared.summary.items())
    print_table(["label", *prepared.splits], prepared.rows)
    typer.echo(f"wrote {out / 'photos.csv'} ({len(prepared.table):,} photos) and {out / 'report.html'}")
