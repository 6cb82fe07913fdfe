"""Whether copies that were planted across splits are found, and what they do to figures: `python -m tests.bench.leaks`.

Photos of the test split are edited as people edit photos, and put into the train split. What `vitrail dataset` makes of
that is compared with what there was before.
"""

import argparse
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.bench.photos import SHARED
from tests.bench.report import Section, show, write
from vitrail.cli.edits import EDITS
from vitrail.server.config import DEFAULT_EMBEDDER
from vitrail.server.embedders.names import make
from vitrail.training.comparing import quality
from vitrail.training.files import see
from vitrail.training.findings import Findings, examine
from vitrail.training.photos import Split, read_photos
from vitrail.training.vectors import Vectors, embed

COPY = "the file itself"
SIDES: tuple[Split, ...] = "test", "train"


class Planted(NamedTuple):
    """A copy in the train split of a photo of the test split."""

    id: str
    of: str
    edit: str


def copy(folder: Path, most: int) -> None:
    """Copy the photos of the test split, and so many of the train split."""
    photos = read_photos(str(SHARED))
    train = photos.of("train").all
    for photo in [*photos.of("test").all, *random.Random(0).sample(train, min(most, len(train)))]:
        (folder / photo.id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHARED / photo.id, folder / photo.id)


def plant(folder: Path, share: float) -> list[Planted]:
    """Put edited copies of a share of the test photos into the train split, each with one of the edits, in turn."""
    photos = [photo for photo in read_photos(str(folder)).all if photo.split == "test"]
    chosen = random.Random(0).sample(photos, round(share * len(photos)))
    planted = []
    for number, photo in enumerate(chosen):
        edit = [None, *EDITS][number % (1 + len(EDITS))]
        copy = Planted(f"train/{photo.label}/planted-{number}.jpg", photo.id, edit.name if edit else COPY)
        original = folder / photo.id
        data = edit.jpeg(Image.open(original).convert("RGB")) if edit else original.read_bytes()
        (folder / copy.id).write_bytes(data)
        planted.append(copy)
    return planted


def found(planted: list[Planted], findings: Findings) -> Section:
    """How many of each edit are in one group with what they were made of, and what else is."""
    of = {photo.id: number for number, group in enumerate(findings.groups) for photo in group.photos}
    right = [copy for copy in planted if copy.id in of and of[copy.id] == of.get(copy.of)]
    rows = []
    for edit in [COPY, *(edit.name for edit in EDITS)]:
        count, hits = (sum(copy.edit == edit for copy in copies) for copies in (planted, right))
        rows.append((edit, f"{count:,}", f"{hits:,}"))
    rows.append(("all", f"{len(planted):,}", f"{len(right):,}"))
    pictures = {copy.id for copy in planted} | {copy.of for copy in planted}
    others = [group for group in findings.groups if not any(photo.id in pictures for photo in group.photos)]
    mixed = [group for group in findings.groups if len({photo.id for photo in group.photos} - pictures)]
    mixed = [group for group in mixed if group not in others]
    note = f"Groups without a planted copy: {len(others)}; with a photo more than was planted: {len(mixed)}."
    return Section("planted copies", ("edit", "planted", "found"), rows, note)


def retrieval(planted: list[Planted], findings: Findings, vectors: Vectors) -> Section:
    """What the default embedder seems to reach: the test split against the train split."""
    left, copies = {each.id for each in findings.left()}, {copy.id for copy in planted}
    rows: list[tuple[str, ...]] = []
    for name, out in (("with the copies", set()), ("as cleaned", left), ("as it was before", copies)):
        places = [place for place, photo in enumerate(vectors.photos) if photo.id not in out]
        kept = Vectors([vectors.photos[place] for place in places], vectors.vectors[places])
        figures = quality(make(DEFAULT_EMBEDDER, threads=1), kept.of("test"), kept.of("train"))
        counts = (f"{len(kept.of(split).photos):,}" for split in SIDES)
        rows.append((name, *counts, *(f"{value:.4f}" for value in figures)))
    return Section("nearest neighbours of the same label", ("", "queries", "gallery", "P@10", "mAP", "R@1"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.5, help="Of the test photos, so many are planted.")
    parser.add_argument("--train", type=int, default=10_000, help="Photos of the train split, at most.")
    parser.add_argument("--out", type=Path, help="Write the tables as Markdown.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        copy(folder, given.train)
        planted = plant(folder, given.share)
        photos = read_photos(str(folder))
        seen, failed = see(photos)
        vectors = embed(make(DEFAULT_EMBEDDER, threads=os.cpu_count() or 1), photos)
        findings = examine(photos.source, seen, failed, vectors.vectors)
        sections = [found(planted, findings), retrieval(planted, findings, vectors)]
    for section in sections:
        show(section)
    if given.out:
        write(given.out, "Copies across splits", f"python -m tests.bench.leaks --train {given.train}", sections)


if __name__ == "__main__":
    main()
