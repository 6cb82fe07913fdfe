"""`make bench`: `vitrail bench` on vectors made from photos, against a cluster on this machine; and photos a second."""

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before torch and faiss: threads that spin take the cluster's cores

from tests.bench import embed, photos
from tests.bench.report import show
from tests.e2e.running import Running
from vitrail.cli.bench import report
from vitrail.cli.bench.command import callers_of, measured
from vitrail.cli.bench.given import Given
from vitrail.cli.common import print_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=50_000, help="how many to load")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=600, help="how many to index from JPEG; 0 leaves that out")
    parser.add_argument("--folder", type=Path, help="a folder of JPEGs; the clothing photos or packaged ones if not")
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each rate")
    parser.add_argument("--callers", type=callers_of, default="1,4,16,64", help="with commas")
    parser.add_argument("--plot", type=Path, help="draw recall against throughput into this .png")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    base, queries = photos.made(asked.cache, asked.folder, asked.vectors, asked.queries)
    given = Given("cells of photos", base, queries, "cosine", asked.cache)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        running = Running(data / "data", "--shards", str(asked.shards), "--port", "0", "--metrics-port", "0")
        try:
            figures = measured(given, running.address, asked.plot, seconds=asked.seconds, callers=asked.callers)
            images = photos.encoded(asked.folder, asked.photos, "train")
            indexed = embed.measure(running, images, data / "photos") if images else None
        finally:
            running.stop()
    if asked.json:
        of_photos = asdict(indexed) | {"bound": indexed.bound, "ratio": indexed.ratio} if indexed else None
        print_json(asdict(figures) | {"photos": of_photos})
        return
    report.show(figures)
    if indexed:
        show(embed.section(indexed))


if __name__ == "__main__":
    main()
