"""`vitrail project`: an embedder of fewer dimensions, fitted to photos, as a file that a server embeds with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.common import AsJson, fail, needs, print_json, print_table
from vitrail.client import InvalidArgument
from vitrail.client.progress import bar

# Of a larger folder, photos from all over it: features of 1,280 dimensions then take 100 MB, and fitting them 600.
MOST_PHOTOS = 20_000


def project(
    photos: Annotated[str, typer.Argument(help="A folder, a bucket, or a table (.csv); nested folders are included.")],
    out: Annotated[Path, typer.Option(help="The file to write, which must not exist: model.safetensors.")],
    dimension: Annotated[int, typer.Option(min=1, help="Components of the new vectors.")],
    embedder: Annotated[str, typer.Option(help="Whose vectors: the default one, one of timm, or file:….")] = "",
    whiten: Annotated[
        bool, typer.Option("--whiten", help="Give all components the same variance: Euclidean becomes Mahalanobis.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit an embedder's principal components to photos; asks no server.

    A server embeds with the file at once: VITRAIL_EMBEDDERS=file:model.safetensors. Photos that cannot be decoded are
    listed and left out. Of photos that have splits those of train are taken, and of more than 20,000 so many from all
    over them.
    """
    if out.exists():
        fail(f"{out} exists already")
    if not out.absolute().parent.is_dir():
        fail(f"{out}: there is no such folder")
    try:
        from vitrail.server.config import DEFAULT_EMBEDDER
        from vitrail.server.embedders.hub import NoSuchEmbedder
        from vitrail.server.embedders.projecting import Projecting
        from vitrail.training.photos import Photos, read_photos
        from vitrail.training.vectors import embed
    except ImportError as error:
        needs("server", error)
    try:
        every = read_photos(photos)
    except InvalidArgument as error:
        fail(str(error))
    if any(photo.split for photo in every.all):
        every = every.of("train")
    some = Photos(every.source, every.all[:: -(-len(every.all) // MOST_PHOTOS) or 1])
    if len(some.all) < dimension:
        fail(f"{len(some.all):,} photos are too few for {dimension:,} dimensions: each needs one at least")
    try:
        projecting = Projecting(embedder or DEFAULT_EMBEDDER, threads=os.cpu_count() or 1)
    except NoSuchEmbedder as error:
        fail(str(error))
    if dimension > projecting.features.dimension:
        fail(f"{dimension:,} dimensions are more than the {projecting.features.dimension:,} that the embedder has")
    with bar("embedding", len(some.all), shown=True) as show:
        found = embed(projecting.features, some, show)
    features, failed = found.vectors, [*every.unread, *found.failed]
    if failed and not as_json:
        print_table(["file", "why"], [(error.path, error.message) for error in failed])
    if len(features) < dimension:
        fail(f"{len(features):,} photos that can be decoded are too few for {dimension:,} dimensions")
    projecting.save(out, features, dimension, whiten=whiten)
    if as_json:
        print_json({"photos": len(features), "failed": failed, "dimension": dimension, "embedder": f"file:{out}"})
    else:
        typer.echo(
            f"fitted {dimension:,} dimensions to {len(features):,} photos; serve them with VITRAIL_EMBEDDERS=file:{out}"
        )
