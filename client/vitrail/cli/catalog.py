"""`vitrail collections`: list, create and delete them."""

from enum import StrEnum
from typing import Annotated, cast, get_args

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import Collection
from vitrail.client.models import AttributeType

app = typer.Typer(help="List, create and delete collections.")

TYPES: tuple[str, ...] = get_args(AttributeType)
COLUMNS = ["name", "dimension", "metric", "embedder", "train at", "thumbnails", "attributes", "created"]


class MetricName(StrEnum):
    """How two vectors compare."""

    cosine = "cosine"
    inner_product = "inner_product"
    euclidean = "euclidean"


@app.callback(invoke_without_command=True)
def collections(context: typer.Context, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """List the collections."""
    if context.invoked_subcommand is not None:
        return
    with connected(address) as client:
        every = client.list_collections()
    _print(list(every), as_json)


@app.command()
def create(
    name: str,
    embedder: Annotated[str | None, typer.Option(help="Instead of the server's default.")] = None,
    dimension: Annotated[int | None, typer.Option(help="For vectors that callers bring.")] = None,
    metric: MetricName = MetricName.cosine,
    train_at: Annotated[
        int, typer.Option(min=1, help="Records of one shard from which on its index trains itself.")
    ] = 10_000,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a small JPEG of each image.")] = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the bytes of images, to fill other versions from.")
    ] = False,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help=f"As NAME:TYPE, any number of times; a type is one of {', '.join(TYPES)}."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Create a collection."""
    types = dict(map(_attribute, attribute or ()))
    with connected(address) as client:
        made = client.create_collection(
            name,
            embedder=embedder,
            dimension=dimension,
            metric=metric.value,
            attributes=types,
            train_at=train_at,
            thumbnails=thumbnails,
            keep_images=keep_images,
        )
    _print([made], as_json)


@app.command()
def delete(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete a collection and all its records."""
    if not yes:
        typer.confirm(f"Delete {name!r} and all its records?", abort=True)
    with connected(address) as client:
        client.delete_collection(name)


def _attribute(text: str) -> tuple[str, AttributeType]:
    name, colon, kind = text.partition(":")
    if not colon or kind not in TYPES:
        raise typer.BadParameter(f"{text!r} is not NAME:TYPE with one of {', '.join(TYPES)}")
    return name, cast("AttributeType", kind)


def _print(every: list[Collection], as_json: bool) -> None:
    if as_json:
        print_json(every)
    else:
        print_table(COLUMNS, map(_row, every))


def _row(one: Collection) -> list[object]:
    return [
        one.name,
        one.dimension,
        one.metric,
        one.embedder or "(vectors)",
        one.train_at,
        one.thumbnails,
        ", ".join(f"{name}: {kind}" for name, kind in one.attributes.items()),
        f"{one.created:%Y-%m-%d %H:%M}",
    ]
