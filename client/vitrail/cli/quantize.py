"""`vitrail quantize`: an embedder in a smaller file, and what that costs and gains."""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.common import AsJson, fail, needs, print_json, print_table
from vitrail.client import VitrailError
from vitrail.client.progress import bar

if TYPE_CHECKING:
    from vitrail.training.photos import Photos

CALIBRATING = 128
"""Photos whose ranges decide what 8 bits mean: 32 and 128 gave the same cosines."""
COMPARED = 1_000
"""Photos that both embed."""
KINDS = {".safetensors": "file", ".onnx": "onnx"}


def quantize(
    photos: Annotated[str, typer.Argument(help="A folder, a bucket, or a table (.csv), with labels where there are.")],
    out: Annotated[Path, typer.Option(help="The file to write, which must not exist: .safetensors or .onnx.")],
    embedder: Annotated[str, typer.Option(help="What is made smaller: the default one, one of timm, or file:….")] = "",
    folder: Annotated[Path | None, typer.Option(help="What paths in a table are relative to, if not its own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an embedder in half precision (.safetensors) or in 8 bits (.onnx), and compare it; asks no server.

    A server embeds with the file at once, in a space of its own: VITRAIL_EMBEDDERS=file:small.safetensors or
    onnx:small.onnx. The ranges of 8 bits are those of photos of the train split; both embedders are compared on up to
    1,000 photos of the test split, each searched among the others; without splits, all photos serve for both.
    """
    if out.exists():
        fail(f"{out} exists already")
    if not out.absolute().parent.is_dir():
        fail(f"{out}: there is no such folder")
    if out.suffix not in KINDS:
        fail(f"{out}: give a name that ends in .safetensors (half precision) or .onnx (8 bits)")
    try:
        from vitrail.server.config import DEFAULT_EMBEDDER
        from vitrail.server.embedders.hub import NoSuchEmbedder
        from vitrail.training.photos import read_photos
    except ImportError as error:
        needs("train", error)
    name, small = embedder or DEFAULT_EMBEDDER, f"{KINDS[out.suffix]}:{out}"
    try:
        with redirect_stdout(sys.stderr):  # what libraries say is no figure
            compared = _quantized(name, small, out, read_photos(photos, folder))
    except ImportError as error:
        needs("train", error)
    except (NoSuchEmbedder, VitrailError, ValueError, OSError) as error:
        fail(str(error))
    if as_json:
        print_json(compared)
        return
    if compared["failed"]:
        print_table(["file", "why"], [(error.path, error.message) for error in compared["failed"]])
    columns = ["embedder", "bytes", "images/s", "P@10", "mAP", "R@1"]
    print_table(columns, map(dict.values, compared["embedders"]), title=f"on {compared['photos']:,} photos")
    cosine = compared["cosine"]
    typer.echo(f"cosine of the two vectors of a photo: {cosine['mean']:.4f}, at least {cosine['least']:.4f}")
    typer.echo(f"serve it with VITRAIL_EMBEDDERS={small}")


def _quantized(name: str, small: str, out: Path, photos: "Photos") -> dict[str, Any]:
    """Write the file, and what it costs and gains."""
    from vitrail.server.embedders.exportable import exportable
    from vitrail.server.embedders.names import make
    from vitrail.server.embedders.network import cosines
    from vitrail.training import quantizing
    from vitrail.training.comparing import quality, rates, size, some_pixels
    from vitrail.training.photos import Photos
    from vitrail.training.vectors import embed

    threads = os.cpu_count() or 1
    learned_from, compared = photos.of("train"), photos.of("test")
    if not (learned_from.all and compared.all):
        learned_from = compared = photos
    compared = Photos(photos.source, compared.all[:: -(-len(compared.all) // COMPARED) or 1])
    parts, original = exportable(name), make(name, threads=threads)
    if out.suffix == ".onnx":
        quantizing.to_int8(out, parts, some_pixels(original, learned_from, CALIBRATING))
    else:
        quantizing.to_half(out, parts)
    both = original, make(small, threads=threads)
    vectors = []
    for label, each in zip(("original", "small"), both, strict=True):
        with bar(label, len(compared.all), shown=True) as show:
            vectors.append(embed(each, compared, show))
    qualities = [quality(each, found, found) for each, found in zip(both, vectors, strict=True)]
    near = cosines(*(each.vectors for each in vectors))
    return {
        "photos": len(near),
        "failed": vectors[0].failed,
        "cosine": {"mean": float(near.mean()), "least": float(near.min())},
        "embedders": [
            {"embedder": each, "bytes": size(each), "images_per_second": rate, **found._asdict()}
            for each, rate, found in zip((name, small), rates(both, compared), qualities, strict=True)
        ],
    }
