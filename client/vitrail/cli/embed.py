"""`vitrail embed`: vectors of photos; or, step by step, the pictures that an embedder makes of one."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, fail, print_json, print_table
from vitrail.client import Embeddings


def embed(
    photos: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    embedder: Annotated[str | None, typer.Option(help="Instead of the server's default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the vectors to this .npy file, one row a photo.")] = None,
    explain: Annotated[
        Path | None,
        typer.Option(help="Write each step of the preprocessing as a picture to this directory; asks no server."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Turn photos into vectors, or show what is done to a photo before the model sees it."""
    if explain is not None:
        written = [path for photo in photos for path in _explain(photo, embedder, explain)]
        print_json([str(path) for path in written]) if as_json else print_table(["step"], [[path] for path in written])
        return
    with connected(address) as client:
        found = client.embed(images=photos, embedder=embedder)
    if out is not None:
        np.save(out, found.vectors)
    if as_json:
        print_json(_figures(photos, found))
    else:
        _print(photos, found)
    if found.errors:
        raise typer.Exit(1)


def _explain(photo: Path, embedder: str | None, directory: Path) -> list[Path]:
    try:
        from vitrail.server.explain import explain
    except ImportError as error:
        fail(f"this needs more packages ({error.name} is missing): pip install 'vitrail[server]'")
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for number, (name, picture) in enumerate(explain(photo.read_bytes(), embedder)):
            path = directory / f"{photo.stem}-{number}-{name.replace(' ', '-').replace(',', '')}.png"
            picture.save(path)
            written.append(path)
    except ValueError as error:
        fail(f"{photo}: {error}")
    return written


def _figures(photos: list[Path], found: Embeddings) -> dict[str, object]:
    errors = {error.index: error.message for error in found.errors}
    return {
        "embedder": found.embedder,
        "space": found.space,
        "photos": [
            {"path": str(path), "error": errors[index]}
            if index in errors
            else {"path": str(path), "vector": found.vectors[index].tolist()}
            for index, path in enumerate(photos)
        ],
    }


def _print(photos: list[Path], found: Embeddings) -> None:
    errors = {error.index: error.message for error in found.errors}
    rows = [
        (path, errors.get(index) or " ".join(f"{value:.3f}" for value in found.vectors[index][:4]) + " …")
        for index, path in enumerate(photos)
    ]
    print_table(["photo", "vector"], rows, title=f"{found.vectors.shape[1]:,} dimensions in the space {found.space}")
