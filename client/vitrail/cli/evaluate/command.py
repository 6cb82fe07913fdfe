"""`vitrail evaluate`: the command."""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, fail, needs, print_json
from vitrail.cli.search import picture_of_record
from vitrail.client import Client, InvalidArgument
from vitrail.client.progress import bar

if TYPE_CHECKING:
    from vitrail.training.evaluation import Evaluation
    from vitrail.training.pairs import Pairs
    from vitrail.training.photos import Photos
    from vitrail.training.vectors import Vectors


class MetricName(StrEnum):
    """How vectors compare."""

    cosine = "cosine"
    inner_product = "inner_product"
    euclidean = "euclidean"
    mahalanobis = "mahalanobis"


class SplitName(StrEnum):
    """A split of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


def evaluate(
    photos: Annotated[
        str | None, typer.Argument(help="A folder of folders named by labels, or a table: path,label[,split].")
    ] = None,
    embedder: Annotated[
        list[str] | None, typer.Option(help="The default one if not given; another one is compared with it.")
    ] = None,
    metric: Annotated[
        MetricName | None, typer.Option(help="Cosine if not given; mahalanobis is euclidean after whitening.")
    ] = None,
    queries: Annotated[
        SplitName | None, typer.Option(help="Which photos to search with: test, or all where there is no such split.")
    ] = None,
    gallery: Annotated[
        list[SplitName] | None, typer.Option(help="Which photos to search, all if not given; may be repeated.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="What is relevant, instead of labels: query,relevant a line.", exists=True, dir_okay=False),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the photos of a table are, instead of beside it.", file_okay=False)
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Evaluate one that serves: with its records, or with the photos."),
    ] = None,
    attribute: Annotated[str, typer.Option(help="The label of records of a collection.")] = "category",
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=1, max=1000, help="How many hits to ask a collection for.")
    ] = 100,
    out: Annotated[Path | None, typer.Option(help="Write a page with curves and pictures: report.html.")] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval: mAP, P@k, hit@k, recall@k, MRR, NDCG, with confidence intervals.

    Photos are embedded here, and all of each exact ranking is measured. A collection is searched exactly and as it
    serves, which tells what the model can do from what the index costs. Nothing ever finds itself.
    """
    if out is not None and not out.absolute().parent.is_dir():
        fail(f"{out}: there is no such folder")
    if photos is None and collection is None:
        raise typer.BadParameter("give photos, or --collection, or both")
    if collection is not None and (embedder or metric or gallery):
        raise typer.BadParameter("a collection has its own embedder, metric and photos")
    try:
        from vitrail.training.pairs import read_pairs
        from vitrail.training.photos import read_photos

        given = read_photos(photos, folder) if photos is not None else None
        relevant = read_pairs(pairs) if pairs is not None else None
        if collection is not None:
            chosen = given.of(queries.value) if given and queries else given
            with connected(address) as client:
                _tell(_served(client, collection, attribute, top_k, chosen, relevant), out, as_json)
        elif given is not None:
            _tell(
                _offline(given, list(dict.fromkeys(embedder or [""])), metric, queries, gallery or [], relevant),
                out,
                as_json,
            )
    except ImportError as error:
        needs("train", error)
    except InvalidArgument as error:
        fail(str(error))


def _tell(evaluation: "Evaluation", out: Path | None, as_json: bool) -> None:
    from vitrail.cli.evaluate.figures import Figures
    from vitrail.cli.evaluate.report import write

    figures = Figures(evaluation)
    if out is not None:
        write(out, figures)
    if as_json:
        print_json(figures.as_json())
    else:
        figures.show()
        if out is not None:
            typer.echo(f"report: {out}")


def _served(
    client: Client, collection: str, attribute: str, top_k: int, photos: "Photos | None", pairs: "Pairs | None"
) -> "Evaluation":
    from vitrail.training.served import Asked, served

    return served(
        client,
        Asked(collection, attribute, top_k),
        lambda id: picture_of_record(client, collection, id),
        photos,
        pairs,
        progress=True,
    )


def _offline(
    photos: "Photos",
    names: list[str],
    metric: MetricName | None,
    queries: SplitName | None,
    gallery: list[SplitName],
    pairs: "Pairs | None",
) -> "Evaluation":
    from vitrail.training.evaluation import offline

    return offline(
        photos,
        lambda chosen: _embedded(chosen, names),
        metric.value if metric else "cosine",
        queries.value if queries else None,
        [split.value for split in gallery],
        pairs,
    )


def _embedded(photos: "Photos", names: list[str]) -> "Iterator[tuple[str, Vectors]]":
    from vitrail.server.config import DEFAULT_EMBEDDER
    from vitrail.server.embedders.hub import NoSuchEmbedder
    from vitrail.server.embedders.names import make
    from vitrail.training.vectors import embed

    for name in names:
        try:
            # In full precision, so that figures do not depend on what pays on this machine.
            embedder = make(name or DEFAULT_EMBEDDER, threads=os.cpu_count() or 1, precision="full")
        except NoSuchEmbedder as error:
            fail(str(error))
        with bar(f"embedding, {embedder.name}", len(photos.all), shown=True) as show:
            yield embedder.name, embed(embedder, photos, show)
