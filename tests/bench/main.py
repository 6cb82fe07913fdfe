"""`make bench`: how fast Vitrail is, as ratios against FAISS, the decoder and the bare model in the same run."""

import argparse
import json
import os
import tempfile
from pathlib import Path

SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ.update(SINGLE_THREADED)  # before numpy and faiss load their BLAS; torch is given its threads by itself

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.bench import embed, photos, search  # noqa: E402
from tests.bench.embed import Photos  # noqa: E402
from tests.bench.search import Memory, Rate  # noqa: E402
from vitrail.shard.index import choose_recipe  # noqa: E402

CALLERS = (1, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=50_000, help="how many to index")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=600, help="how many to index from JPEG")
    parser.add_argument("--folder", type=Path, help="a folder of JPEGs; the clothing photos or packaged ones if not")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    base, queries = photos.made(given.cache, given.folder, given.vectors, given.queries)
    true = search.truth(base, queries)
    alone, added = search.faiss_alone(base, queries, true)
    with tempfile.TemporaryDirectory() as directory:
        running, memory, upserted = search.loaded(Path(directory) / "data", base)
        try:
            before = search.cpu_seconds(running)
            rates = search.through_grpc(running, queries, true, CALLERS)
            after = search.cpu_seconds(running)
            images = photos.encoded(given.folder, given.photos, "train")
            indexed = embed.measure(running, images, Path(directory) / "photos")
        finally:
            running.stop()
    recipe = choose_recipe(len(base) // 2, base.shape[1])
    figures = {
        "vectors": len(base),
        "dimension": base.shape[1],
        "faiss": [vars(rate) for rate in alone],
        "grpc": [vars(rate) | {"ratio": rate.per_second / _beside(rate, alone).per_second} for rate in rates],
        "cpu_seconds": {name: after[name] - before[name] for name in after},
        "faiss_added_per_second": added,
        "upserted_per_second": upserted,
        "memory": {"empty": memory.empty, "full": memory.full, "per_record": memory.per_record},
        "photos": vars(indexed) | {"bound": indexed.bound, "ratio": indexed.ratio},
    }
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        _print(alone, rates, memory, indexed, recipe.factory, added, upserted)


def _beside(rate: Rate, alone: list[Rate]) -> Rate:
    """What a rate is compared with: batches with batches."""
    return alone[1] if "batches" in rate.what else alone[0]


def _print(
    alone: list[Rate],
    rates: list[Rate],
    memory: Memory,
    indexed: Photos,
    recipe: str,
    added: float,
    upserted: float,
) -> None:
    console = Console(width=None if Console().is_terminal else 130)
    table = Table(
        "", "queries/s", "ratio", "recall@10", "p50 ms", "p95 ms", "p99 ms", title=f"searches ({recipe} a shard)"
    )
    for rate in (*alone, *rates):
        ratio = f"{rate.per_second / _beside(rate, alone).per_second:.3f}"
        times = [f"{value:.1f}" for value in rate.milliseconds or ()] or ["", "", ""]
        table.add_row(rate.what, f"{rate.per_second:,.0f}", ratio, f"{rate.recall:.3f}", *times)
    console.print(table)
    table = Table("", "photos/s", "ratio", title="photos")
    table.add_row("decoding alone", f"{indexed.decoding:,.0f}", "")
    table.add_row("the bare model alone", f"{indexed.model:,.0f}", "")
    table.add_row("1 / (1/decoding + 1/model)", f"{indexed.bound:,.0f}", "1.000")
    table.add_row("indexed from JPEG through the SDK", f"{indexed.indexed:,.0f}", f"{indexed.ratio:.3f}")
    console.print(table)
    codes = 64 + 8
    table = Table("", "", "ratio", title="rows and memory")
    table.add_row("rows/s added to the index in process", f"{added:,.0f}", "1.000")
    table.add_row("rows/s upserted through gRPC, durably", f"{upserted:,.0f}", f"{upserted / added:.3f}")
    table.add_row("bytes a record: code and id", f"{codes}", "1.000")
    table.add_row(
        "bytes a record: anonymous memory of the shards",
        f"{memory.per_record:,.0f}",
        f"{memory.per_record / codes:.2f}",
    )
    table.add_row("the shards when empty, MB together", f"{memory.empty / 1e6:,.0f}", "")
    console.print(table)


if __name__ == "__main__":
    main()
