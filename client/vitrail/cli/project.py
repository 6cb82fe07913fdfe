"""`vitrail project`: an embedder of fewer dimensions, fitted to photos, as a file that a server embeds with."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from vitrail.cli.common import AsJson, fail, needs, print_json, print_table
from vitrail.client import FileError, InvalidArgument
from vitrail.client.folder import read, scan
from vitrail.client.parts import Part
from vitrail.client.progress import bar
from vitrail.client.sources import Entry, Source, source_of

if TYPE_CHECKING:
    from vitrail.server.embedders.projecting import Projecting

AT_ONCE = 16
# Of a larger folder, photos from all over it: features of 1,280 dimensions then take 100 MB, and fitting them 600.
MOST_PHOTOS = 20_000


def project(
    photos: Annotated[str, typer.Argument(help="A folder or a bucket; nested folders are included.")],
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
    listed and left out. Of a folder with more than 20,000 photos so many from all over it are taken.
    """
    if out.exists():
        fail(f"{out} exists already")
    if not out.absolute().parent.is_dir():
        fail(f"{out}: there is no such folder")
    try:
        source = source_of(photos)
    except InvalidArgument as error:
        fail(str(error))
    found, failed = scan(source, Part())
    entries = list(found.values())[:: -(-len(found) // MOST_PHOTOS) or 1]
    if len(entries) < dimension:
        fail(f"{len(entries):,} photos are too few for {dimension:,} dimensions: each needs one at least")
    try:
        from vitrail.server.config import DEFAULT_EMBEDDER
        from vitrail.server.embedders.hub import NoSuchEmbedder
        from vitrail.server.embedders.projecting import Projecting
    except ImportError as error:
        needs("server", error)
    try:
        projecting = Projecting(embedder or DEFAULT_EMBEDDER, threads=os.cpu_count() or 1)
    except NoSuchEmbedder as error:
        fail(str(error))
    if dimension > projecting.dimension:
        fail(f"{dimension:,} dimensions are more than the {projecting.dimension:,} that the embedder has")
    features = _features(projecting, source, entries, failed)
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


def _features(
    projecting: "Projecting", source: Source, entries: list[Entry], failed: list[FileError]
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Features float32 [n, c] of the photos that can be decoded; the others join those that failed."""
    found = [np.empty((0, projecting.dimension), np.float32)]
    with bar("embedding", len(entries), shown=True) as show:
        for start in range(0, len(entries), AT_ONCE):
            pixels = []
            for file in (read(source, entry) for entry in entries[start : start + AT_ONCE]):
                if isinstance(file, FileError):
                    failed.append(file)
                    continue
                try:
                    pixels.append(projecting.pixels(file.data))
                except InvalidArgument as error:
                    failed.append(FileError(source.shown(file.id), str(error)))
            if pixels:
                found.append(projecting.features(pixels))
            show(min(start + AT_ONCE, len(entries)))
    return np.concatenate(found)
