"""Where labelled photos come from: folders and tables, and the vectors of them."""

from pathlib import Path

import numpy as np
import pytest

from tests.server.images import photo_files
from vitrail.client import InvalidArgument
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.names import make
from vitrail.training.photos import Photo, Photos, read_photos, write_table
from vitrail.training.vectors import embed


def folder(root: Path, *ids: str) -> Path:
    """A folder with an empty file of each id."""
    for id in ids:
        (root / id).parent.mkdir(parents=True, exist_ok=True)
        (root / id).touch()
    return root


def test_a_folder_of_labels(tmp_path: Path) -> None:
    """The first part of the path is the label; hidden and other files are no photos."""
    found = read_photos(str(folder(tmp_path, "hat/b/c.png", "a.jpg", "hat/.d.jpg", "hat/notes.txt", "dress/a.JPG")))
    assert found.all == [Photo("a.jpg", ""), Photo("dress/a.JPG", "dress"), Photo("hat/b/c.png", "hat")]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    """The second part is the label, where all first ones name splits."""
    ids = ["train/hat/a.jpg", "val/hat/b.jpg", "test/b.jpg"]
    assert read_photos(str(folder(tmp_path, *ids))).all == [
        Photo("test/b.jpg", "", "test"),
        Photo("train/hat/a.jpg", "hat", "train"),
        Photo("val/hat/b.jpg", "hat", "validation"),
    ]
    assert {photo.label for photo in read_photos(str(folder(tmp_path, "hat/a.jpg"))).all} == {
        "train",
        "val",
        "test",
        "hat",
    }


def test_a_table_makes_the_same_split_again(tmp_path: Path) -> None:
    photos = [Photo("a b.jpg", 'one, "two"', "train", "1"), Photo("é/c.jpg", "", "test")]
    write_table(tmp_path / "photos.csv", photos)
    found = read_photos(str(tmp_path / "photos.csv"), folder=tmp_path)
    assert found.all == photos
    assert found.of("test").all == photos[1:]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path\na.jpg\n", "no column 'label'"),
        ("path,label\n../a.jpg,hat\n", r"photos.csv:2: '../a.jpg' is no path"),
        ("path,label\n/a.jpg,hat\n", "no path"),
        ("path,label,split\na.jpg,hat,dev\n", "photos.csv:2: 'dev' is none of train, validation, test"),
        ("path,label\na.jpg,hat\nb.jpg,hat\na.jpg,shoe\n", "a.jpg twice, as 'hat' and as 'shoe'"),
        ('path,label\n"a.jpg,hat\n', "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "photos.csv").write_text(text)
    with pytest.raises(InvalidArgument, match=why):
        read_photos(str(tmp_path / "photos.csv"))


def test_vectors_of_photos(tmp_path: Path) -> None:
    """Those of the embedder, in order; what cannot be decoded or read is told with its path."""
    for number, data in enumerate([*photo_files().values()][:3]):
        (tmp_path / f"{number}.jpg").write_bytes(Path(data).read_bytes())
    (tmp_path / "1b.jpg").write_bytes(b"no photo")
    source = read_photos(str(tmp_path))
    photos = Photos(source.source, [*source.all, Photo("9.jpg", "")])
    embedder = make("efficientnet-lite0", threads=2, precision="full")
    done: list[int] = []
    found = embed(embedder, photos, done.append)
    assert [photo.id for photo in found.photos] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [error.path for error in found.failed] == [str(tmp_path / "1b.jpg"), str(tmp_path / "9.jpg")]
    recipe = embedder.preprocessing
    alone = [decode((tmp_path / f"{n}.jpg").read_bytes(), ImageLimits(), recipe.target) for n in range(3)]
    wanted = embedder.embed(np.stack([recipe.apply(image) for image in alone]))
    np.testing.assert_allclose(found.vectors, wanted, atol=1e-5)
    assert done[-1] == len(photos.all)
