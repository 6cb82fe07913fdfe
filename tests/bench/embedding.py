"""`make bench-embed`: what embedding costs beside its parts, as ratios, all in one run.

Needs a machine that does nothing else, for some five minutes. On a GPU, more: `embed_gpu`.

OpenMP's threads sleep while they wait, as the server has them.
On a CPU the bare model is run as torch runs it, all threads on one batch, and in the best way found, too.
"""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin take the cluster's cores

import numpy as np
import torch

from tests.bench import bulk, decode, embed, embed_gpu, single, tensors
from tests.bench.bare import THREADS, Way, like
from tests.bench.photos import encoded, opened
from tests.bench.report import Asked, Section, asked_section, show, write
from tests.e2e.running import Running
from vitrail.client import Client
from vitrail.server.config import Config
from vitrail.server.embedders.efficientnet import EfficientNetLite0

GPU_BATCH = 64
PIXELS = {"cpu": 128, "cuda": 1024}


class Told:
    """Tables, shown as they come and kept."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.asked: list[Asked] = []

    def add(self, section: Section, *asked: Asked) -> None:
        show(section)
        self.sections.append(section)
        self.asked += asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder of JPEGs; the clothing photos or packaged ones if not")
    parser.add_argument("--photos", type=int, default=900, help="how many to index from JPEG")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each turn of searches beside bulk ingestion")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write the tables here, as Markdown")
    given = parser.parse_args()
    batch: int = GPU_BATCH if given.device == "cuda" else Config.model_fields["embed_batch"].default
    os.environ["VITRAIL_EMBED_BATCH"] = str(batch)
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: the embedder takes a GPU that it sees
    told = Told()
    ways = in_process(told, given.folder, given.device, batch, given.rounds)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        running = Running(data / "data", "--shards", "2", "--port", "0", "--metrics-port", "0")
        try:
            served(told, running, data / "photos", ways, given)
        finally:
            running.stop()
    if given.device == "cuda":
        ratios, sections = embed_gpu.measure(given.folder, given.device, given.rounds)
        for section in sections:
            told.add(section)
        told.asked += [Asked(f"on the GPU, batches of {size}", ratio, 0.95) for size, ratio in ratios.items()]
    ratios_asked = asked_section(told.asked)
    show(ratios_asked)
    if given.out:
        command = shlex.join(["python", "-m", "tests.bench.embedding", *sys.argv[1:]])
        write(given.out, "Embedding, beside its parts", command, [ratios_asked, *told.sections])


def in_process(told: Told, folder: Path | None, device: str, batch: int, rounds: int) -> tuple[Way, Way]:
    """Pixels in, and decoding; returns the bare model's best batch, and the best way to run it."""
    embedder = EfficientNetLite0(THREADS)
    files = encoded(folder, PIXELS[device], "train")
    pixels = np.stack([embedder.preprocessing.apply(opened(file)) for file in files])
    of_tensors = tensors.measure(embedder, like(embedder), pixels, batch, rounds)
    told.add(of_tensors.section, Asked("pixels in, against the bare model", of_tensors.ratio, 0.95))
    ratios, section = decode.measure(folder, rounds, seconds=0.15)
    names = (decode.COLLECTION, "12 megapixels")
    told.add(section, *(Asked(f"decoding, {name}, against the faster library", ratios[name], 0.9) for name in names))
    return of_tensors.usual, of_tensors.best


def served(told: Told, running: Running, directory: Path, ways: tuple[Way, Way], given: argparse.Namespace) -> None:
    """What a cluster does."""
    images, queries = encoded(given.folder, given.photos, "train"), encoded(given.folder, 100, "test")
    photos = embed.measure(running, images, directory, *ways)
    told.add(embed.section(photos), Asked("JPEG in, against decoding and the bare model", photos.ratio, 0.9))
    embedder = EfficientNetLite0(THREADS)
    with Client(running.address, timeout=600) as client:
        one = single.measure(client, embed.NAME, queries, like(embedder), embedder.preprocessing, 4 * given.rounds)
    told.add(
        one.section,
        Asked("one photo decoded and embedded, idle, against decoding + model", one.inside, 1.15, at_most=True),
        Asked("a search by photo, idle, against decoding + model", one.whole, 1.15, at_most=True),
    )
    shared = bulk.measure(running, embed.NAME, images, queries, given.seconds, embed.ROUNDS)
    times = 3 if given.device == "cpu" else 2
    told.add(
        shared.section,
        Asked("p95 of searches beside bulk ingestion, against idle", shared.slower, times, at_most=True),
        Asked("bulk ingestion beside searches, against alone", shared.left, 0.6),
    )


if __name__ == "__main__":
    main()
