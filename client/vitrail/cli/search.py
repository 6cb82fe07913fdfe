"""`vitrail search`: one query, its hits as a table or as a gallery."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import typer

from vitrail.cli import gallery
from vitrail.cli.common import (
    DEFAULT_ADDRESS,
    Address,
    AsJson,
    connected,
    fail,
    print_json,
    print_table,
)
from vitrail.client import Client, Hit, SearchResult


def search(
    collection: Annotated[str, typer.Option("--collection", "-c")],
    image: Annotated[Path | None, typer.Option(help="A photo.", exists=True, dir_okay=False)] = None,
    text: Annotated[str | None, typer.Option(help="What is to be seen, in words.")] = None,
    like: Annotated[str | None, typer.Option(help="The id of a record.")] = None,
    vector: Annotated[Path | None, typer.Option(help="A vector, as a .npy file.", exists=True, dir_okay=False)] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many hits, 1 to 1,000.")] = 10,
    nprobe: Annotated[int | None, typer.Option(help="Lists of the trained index to probe.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every record.")] = False,
    target_recall: Annotated[
        float | None, typer.Option(help="The share of the nearest records to find, above 0 and below 1.")
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option("--filter", "-f", help="Only records that meet it: \"category = 'hat' AND price < 80\"."),
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Only hits that score at least this.")] = None,
    gallery_path: Annotated[
        Path | None, typer.Option("--gallery", help="Write the pictures to this .html or .png too.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Find the records nearest to a photo, to words, to a record, or to a vector."""
    if sum(given is not None for given in (image, text, like, vector)) != 1:
        raise typer.BadParameter("give one of --image, --text, --like, --vector")
    with connected(address) as client:
        result = client.search(
            collection,
            image=image,
            text=text,
            like=like,
            vector=None if vector is None else _load(vector),
            top_k=top_k,
            nprobe=nprobe,
            exact=exact,
            target_recall=target_recall,
            filter=condition,
            min_score=min_score,
            include=("attributes", "uri", "thumbnail") if gallery_path else ("attributes", "uri"),
        )
        if gallery_path:
            query = image.read_bytes() if image else picture_of_record(client, collection, like) if like else None
            _write_gallery(gallery_path, str(image or text or like or vector), query, result)
    if as_json:
        print_json(_figures(result))
    else:
        _print(result, gallery_path, filtered=bool(condition))


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        fail(f"{path} is not a .npy file of numbers")


def _print(result: SearchResult, gallery_path: Path | None, *, filtered: bool) -> None:
    rows = [(rank, hit.score, hit.id, _shown(hit)) for rank, hit in enumerate(result.hits, 1)]
    print_table(["rank", "score", "id", "attributes"], rows)
    typer.echo(_summary(result))
    if filtered:
        typer.echo(f"{result.index.matching:,} records meet the filter")
    if gallery_path:
        typer.echo(f"gallery: {gallery_path}")


def _shown(hit: Hit) -> str:
    return ", ".join(f"{name}={value}" for name, value in hit.attributes.items())


def _summary(result: SearchResult) -> str:
    """How much was searched and how, in one line."""
    coverage, index = result.coverage, result.index
    how = f"trained index, nprobe {index.nprobe}" if index.trained else "partly trained"
    if index.recall:
        how += f", recall about {index.recall:.3f}"
    return (
        f"coverage {coverage.fraction:.3f}: {coverage.records_searched:,} of {coverage.records_total:,} records on "
        f"{coverage.shards_searched} of {coverage.shards_total} shards; {'exact' if index.exact else how}; "
        f"{result.timings.total * 1000:.1f} ms"
    )


def _figures(result: SearchResult) -> dict[str, Any]:
    hits = [{"id": hit.id, "score": hit.score, "attributes": hit.attributes, "uri": hit.uri} for hit in result.hits]
    return {
        "hits": hits,
        "coverage": result.coverage,
        "index": result.index,
        "timings": result.timings,
    }


def _write_gallery(path: Path, title: str, query: bytes | None, result: SearchResult) -> None:
    hits = [gallery.Picture(f"{hit.score:.4f}\n{hit.id}", _picture(hit.thumbnail, hit.uri)) for hit in result.hits]
    gallery.write(path, [gallery.Row(title, query, hits)])


def picture_of_record(client: Client, collection: str, record_id: str) -> bytes | None:
    """The picture of a record, where it can be had."""
    record = client.get(collection, record_id)
    return _picture(record.thumbnail, record.uri)


def _picture(thumbnail: bytes | None, uri: str | None) -> bytes | None:
    """The thumbnail, else the file behind the uri where it is on this machine and readable."""
    parts = urlsplit(uri or "")
    if thumbnail or parts.scheme not in ("", "file") or not parts.path:
        return thumbnail
    try:
        return Path(url2pathname(parts.path) if parts.scheme else uri or "").read_bytes()
    except OSError:
        return None
