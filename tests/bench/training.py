"""How many photos a second `vitrail train` learns from, beside what its parts do alone on the same cores.

    python -m tests.bench.training FOLDER [--photos 960] [--freeze 4] [--out docs/bench-train.md]

The bound is 1 / (1/decoding + 1/augmenting + 1/step): all cores do one after the other, and lose nothing in between.
FOLDER has train/CLASS and validation/CLASS.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tests.bench.report import Asked, Section, asked_section, show, write
from vitrail.rpc.process import keep_memory
from vitrail.server.decode import ImageLimits, decode
from vitrail.training.augmentation import Augmentation
from vitrail.training.curves import Epoch
from vitrail.training.data import Data
from vitrail.training.fine_tuning import Run, fine_tune
from vitrail.training.loading import Batch
from vitrail.training.photos import Photo, Photos, read_photos
from vitrail.training.settings import Settings

EPOCHS = 3
STEPS = 15
AT_LEAST = 0.85


def some(photos: Photos, count: int) -> Photos:
    """So many of the train split, of all classes, and a few to validate by: that is no part of what is timed."""
    train = photos.of("train").all
    spread = train[:: max(1, len(train) // count)][:count]
    return Photos(photos.source, [*spread, *photos.of("validation").all[::4]])


def on_all_cores(work: Callable[[Any], Any], items: Iterable[Any]) -> tuple[list[Any], float]:
    """What work makes of items, a thread a core, and the seconds."""
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        start = time.perf_counter()
        return list(pool.map(work, items)), time.perf_counter() - start


def alone(photos: Photos, settings: Settings, out: Path) -> dict[str, float]:
    """Photos a second of each part."""
    run = Run(Data.of(photos), settings, out, 1e9)
    recipe = run.augmented().preprocessing
    train = photos.of("train").all

    def decoded(photo: Photo) -> Any:
        return decode(photos.source.read(photo.id), ImageLimits(), recipe.target, background=recipe.background)

    images, decoding = on_all_cores(decoded, train)
    pixels, augmenting = on_all_cores(Augmentation(recipe, settings), images)
    batch = Batch(train[: settings.batch], torch.stack(pixels[: settings.batch]), [])
    run.begin()
    run.learn(batch)  # what the first one prepares is no part of it
    start = time.perf_counter()
    for _ in range(STEPS):
        run.learn(batch)
    step = (time.perf_counter() - start) / STEPS
    return {"decoding": len(train) / decoding, "augmenting": len(train) / augmenting, "step": settings.batch / step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=960, help="an epoch")
    parser.add_argument("--freeze", type=int, help="stages of the backbone")
    parser.add_argument("--out", type=Path, help="write the tables here, as Markdown")
    given = parser.parse_args()
    keep_memory()
    photos = some(read_photos(str(given.folder)), given.photos)
    settings = Settings(epochs=EPOCHS, patience=EPOCHS, freeze=given.freeze)
    told: list[Epoch] = []
    with tempfile.TemporaryDirectory() as directory:
        before = alone(photos, settings, Path(directory) / "alone")
        fine_tune(photos, settings, Path(directory) / "run", progress=True, told=told.append)
        after = alone(photos, settings, Path(directory) / "again")
    parts = {part: max(before[part], after[part]) for part in before}
    # The first epoch waits for the processes that decode to start.
    rate = max(epoch.photos / epoch.seconds for epoch in told[2:])
    bound = 1 / sum(1 / each for each in parts.values())
    rows = [(f"{part}, alone", f"{each:.1f}", "") for part, each in parts.items()]
    rows += [("1 / (1/decoding + 1/augmenting + 1/step)", f"{bound:.1f}", "1.000")]
    rows += [("vitrail train", f"{rate:.1f}", f"{rate / bound:.3f}")]
    sections = [
        Section("training", ("", "photos/s", "ratio"), rows, "the better of two rounds, before and after the training"),
        asked_section([Asked("vitrail train, to its parts", rate / bound, AT_LEAST)]),
    ]
    for section in sections:
        show(section)
    if given.out:
        command = shlex.join(["python", "-m", "tests.bench.training", *sys.argv[1:]])
        write(given.out, "How fast training is", command, sections)


if __name__ == "__main__":
    main()
