"""From photos to a table of them: examined, cleaned where that is asked for, split; with a manifest and a report."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.client import FileError, InvalidArgument
from vitrail.client.progress import bar
from vitrail.client.sources import Source
from vitrail.server.embedders.names import make
from vitrail.server.embedders.network import Floats
from vitrail.training.dataset_page import page
from vitrail.training.files import Seen, see
from vitrail.training.findings import Findings, Left, counts, examine, sizes, warnings
from vitrail.training.photos import MANIFEST, SPLITS, Photo, Photos, write_table
from vitrail.training.replacing import replacing
from vitrail.training.splitting import Shares, split
from vitrail.training.vectors import Vectors, embed

TABLE, REPORT = "photos.csv", "report.html"


class Settings(NamedTuple):
    """What is asked for."""

    where: str
    """As the user named it."""
    embedder: str
    """Not asked where there are vectors."""
    split: Shares | None = None
    """Split anew; where None, only photos that have no splits are."""
    seed: int = 0
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found and made.

    Attributes:
        findings: What was found.
        table: The photos of the table.
        left: Those that it leaves out, and why.
        warnings: What its labels are not enough for.
    """

    findings: Findings
    table: Sequence[Photo]
    left: Sequence[Left]
    warnings: Sequence[str]

    @property
    def summary(self) -> dict[str, int]:
        """How many there are of each finding."""
        found = self.findings
        return {
            "photos": len(found.seen),
            "unreadable": len(found.failed),
            "groups of one picture": len(found.groups),
            "of these, across splits": len(found.across),
            "of these, with two labels": len(found.conflicts),
            "copies": found.copies,
            "outliers": len(found.outliers),
            "left out of the table": len(self.left),
        }

    @property
    def splits(self) -> list[str]:
        """The splits of the table."""
        used = {photo.split for photo in self.table}
        return [name or "no split" for name in SPLITS if name in used]

    @property
    def rows(self) -> list[list[object]]:
        """Labels with how many photos of each are in each split."""
        used = [name for name in SPLITS if (name or "no split") in self.splits]
        return [[label or "(none)", *(of[name] for name in used)] for label, of in counts(self.table).items()]

    def figures(self) -> dict[str, Any]:
        """All of it, for programs."""
        found = self.findings
        return {
            "counts": self.summary,
            "labels": counts(self.table),
            "sizes": sizes(found.seen),
            "warnings": self.warnings,
            "unreadable": [asdict(error) for error in found.failed],
            "groups": [
                {
                    "photos": [photo.id for photo in group.photos],
                    "exact": group.is_exact,
                    "labels": group.labels,
                    "splits": group.splits,
                }
                for group in found.groups
            ],
            "outliers": [{"photo": one.photo.id, "cosine": one.cosine} for one in found.outliers],
            "left": [left._asdict() for left in self.left],
        }


def prepare(
    photos: Photos, settings: Settings, out: Path, vectors: Vectors | None = None, *, threads: int = 1
) -> Prepared:
    """Examine photos and write photos.csv, dataset.json and report.html; the photos themselves are not touched.

    Args:
        photos: What there is.
        settings: What is asked for.
        out: The folder to write to, which exists.
        vectors: Theirs, where somebody has them.
        threads: For the embedder.

    Raises:
        InvalidArgument: No photo can be decoded.
        NoSuchEmbedder: There is no embedder of that name.
    """
    findings = _examined(photos, settings, vectors, threads)
    table, left = _table(photos, findings, settings.clean)
    if settings.split or not any(photo.split for photo in table):
        table = split(table, settings.split or Shares(), settings.seed)
    prepared = Prepared(findings, table, left, warnings(table))
    write_table(out / TABLE, table)
    with replacing(out / MANIFEST) as partial:
        partial.write_text(json.dumps(_manifest(photos.source, settings, out, prepared), indent=2), "utf-8")
    with replacing(out / REPORT) as partial:
        partial.write_text(page(f"Photos of {settings.where}", photos.source, findings, table), "utf-8")
    return prepared


def _examined(photos: Photos, settings: Settings, vectors: Vectors | None, threads: int) -> Findings:
    with bar("reading", len(photos.all), shown=True) as show:
        seen, failed = see(photos, show)
    if not seen:
        raise InvalidArgument(_nothing(photos, failed), field="where")
    if vectors is None:
        with bar("embedding", len(seen), shown=True) as show:
            readable = Photos(photos.source, [each.photo for each in seen])
            vectors = embed(make(settings.embedder, threads=threads, precision="full"), readable, show)
    seen, rows = _both(seen, vectors)
    with bar("comparing", 100, shown=True) as show:
        return examine(photos.source, seen, failed, rows, show)


def _nothing(photos: Photos, failed: Sequence[FileError]) -> str:
    if not photos.all:
        return "there are no photos" + (f": {failed[0].path}: {failed[0].message}" if failed else "")
    return f"none of {len(photos.all):,} photos can be decoded; {failed[0].path}: {failed[0].message}"


def _both(seen: Sequence[Seen], vectors: Vectors) -> tuple[list[Seen], Floats]:
    """The photos that have a vector, and these vectors, in the order of the photos."""
    rows = {photo.id: row for row, photo in enumerate(vectors.photos)}
    found = [each for each in seen if each.photo.id in rows]
    return found, vectors.vectors[np.array([rows[each.photo.id] for each in found], np.intp)]


def _table(photos: Photos, findings: Findings, clean: bool) -> tuple[list[Photo], list[Left]]:
    """The photos with their groups; and what a clean table leaves out."""
    seen = {photo.id: photo for photo in findings.grouped()}
    if not clean:
        return [seen.get(photo.id, photo) for photo in photos.all], []
    unreadable = [Left(photo.id, "cannot be read") for photo in photos.all if photo.id not in seen]
    left = sorted([*unreadable, *findings.left()])
    names = {each.id for each in left}
    return [photo for photo in seen.values() if photo.id not in names], left


def _manifest(source: Source, settings: Settings, out: Path, prepared: Prepared) -> dict[str, Any]:
    return {
        "photos": _place(source, out),
        "source": settings.where,
        "embedder": settings.embedder,
        "split": settings.split,
        "seed": settings.seed,
        "clean": settings.clean,
        "counts": prepared.summary,
        "splits": Counter(photo.split for photo in prepared.table),
        "left": [left._asdict() for left in prepared.left],
    }


def _place(source: Source, out: Path) -> str:
    """Where the photos are, seen from the table; so that both can be moved where one is in the other."""
    where = source.shown("").rstrip("/")
    if "://" in where:
        return where
    folder, table = Path(where).resolve(), out.resolve()
    near = folder.is_relative_to(table) or table.is_relative_to(folder)
    return os.path.relpath(folder, table) if near else str(folder)
