"""`vitrail evaluate`: the command."""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.common import AsJson, fail, needs, print_json
from vitrail.client import InvalidArgument
from vitrail.client.progress import bar

if TYPE_CHECKING:
    from vitrail.training.evaluation import Evaluation
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
        MetricName, typer.Option(help="How vectors compare; mahalanobis is euclidean after whitening.")
    ] = MetricName.cosine,
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
    out: Annotated[Path | None, typer.Option(help="Write a page with curves and pictures: report.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval: mAP, P@k, hit@k, recall@k, MRR, NDCG, with confidence intervals.

    Photos are embedded here, and the best ranking of all is measured; a photo never finds itself.
    """
    if out is not None and not out.absolute().parent.is_dir():
        fail(f"{out}: there is no such folder")
    try:
        from vitrail.cli.evaluate.figures import Figures
        from vitrail.cli.evaluate.report import write

        evaluation = _offline(photos or "", folder, embedder or [""], metric, queries, gallery or [], pairs)
        figures = Figures(evaluation)
    except ImportError as error:
        needs("train", error)
    except InvalidArgument as error:
        fail(str(error))
    if out is not None:
        write(out, figures)
    if as_json:
        print_json(figures.as_json())
    else:
        figures.show()
        if out is not None:
            typer.echo(f"report: {out}")


def _offline(
    where: str,
    folder: Path | None,
    names: list[str],
    metric: MetricName,
    queries: SplitName | None,
    gallery: list[SplitName],
    pairs: Path | None,
) -> "Evaluation":
    from vitrail.training.evaluation import offline
    from vitrail.training.pairs import read_pairs
    from vitrail.training.photos import read_photos

    return offline(
        read_photos(where, folder),
        lambda photos: _embedded(photos, names),
        metric.value,
        queries.value if queries else None,
        [split.value for split in gallery],
        read_pairs(pairs) if pairs else None,
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
