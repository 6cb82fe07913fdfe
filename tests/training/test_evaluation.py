"""Models on the same queries."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitrail.client import FileError
from vitrail.client.sources import source_of
from vitrail.training.evaluation import offline
from vitrail.training.photos import Photo, Photos
from vitrail.training.summary import compare
from vitrail.training.vectors import Vectors


def test_models_that_fail_on_different_photos(tmp_path: Path) -> None:
    """What one of them cannot embed is asked and searched by none; all of it is told."""
    photos = Photos(source_of(tmp_path), [Photo(f"{label}{n}.jpg", label) for label in "ab" for n in range(4)])
    vectors = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)

    def embedded(wanted: Photos) -> Iterator[tuple[str, Vectors]]:
        for name, without in (("one", 0), ("other", 5)):
            rows = [row for row in range(8) if row != without]
            failed = [FileError(wanted.all[without].id, "no photo")]
            yield name, Vectors([wanted.all[row] for row in rows], vectors[rows], failed)

    found = offline(photos, embedded)
    one, other = (run.found for run in found.runs)
    assert [photo.id for photo in one.queries] == [photo.id for photo in other.queries]
    assert [photo.id for photo in one.gallery] == ["a1.jpg", "a2.jpg", "a3.jpg", "b0.jpg", "b2.jpg", "b3.jpg"]
    assert [error.path for error in found.failed] == ["a0.jpg", "b1.jpg"]
    assert all(difference.interval.mean == 0 for difference in compare(one, other).values())
