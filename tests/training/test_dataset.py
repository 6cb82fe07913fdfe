"""What is found in photos, and the table that is made of them."""

import csv
import io
import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.e2e.photos import jpeg, photos, tiles
from vitrail.client import InvalidArgument
from vitrail.client.sources import source_of
from vitrail.training.duplicates import Group, groups, nearest, unique
from vitrail.training.fetching import of_torchvision
from vitrail.training.files import see
from vitrail.training.findings import Findings, examine, warnings
from vitrail.training.photos import Photo, read_photos
from vitrail.training.preparing import Prepared, Settings, prepare
from vitrail.training.ranking import evaluate
from vitrail.training.same import SAME, agreement, look
from vitrail.training.splitting import Shares, shares, split
from vitrail.training.vectors import Vectors

EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded": lambda photo: Image.open(io.BytesIO(jpeg(photo, 40))),
    "scaled": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
    "cut": lambda photo: photo.crop((20, 30, photo.width - 40, photo.height - 20)),
    "brighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.2),
    "grey": lambda photo: photo.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "mirrored and cut": lambda photo: ImageOps.mirror(photo.crop((0, 30, photo.width - 60, photo.height - 10))),
    "turned": lambda photo: photo.rotate(3),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_photo_is_the_same_picture(edit: str) -> None:
    """The same; and not so another photo that was edited in the same way."""
    resized = {name: photo.resize((320, 240)) for name, photo in list(photos().items())[:5]}
    edited = {name: look(EDITS[edit](photo)) for name, photo in resized.items()}
    for one, photo in resized.items():
        seen = look(photo)
        assert [name for name, other in edited.items() if agreement(seen, other) >= SAME] == [one]


def test_two_things_before_one_background_are_two_pictures() -> None:
    """Though half of it is the same, points and all."""
    background = photos()["coffee"].resize((400, 300))
    one, other = background.copy(), background.copy()
    one.paste(photos()["astronaut"].resize((180, 240)), (110, 30))
    other.paste(photos()["chelsea"].resize((180, 240)), (110, 30))
    assert agreement(look(one), look(other)) < SAME


def test_photos_of_one_colour_are_not_compared() -> None:
    """There is nothing that they could agree in, and no division by nothing."""
    white = look(Image.new("RGB", (64, 64), "white"))
    assert agreement(white, white) == 0


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_nearest_others(rows: int) -> None:
    """As all cosines say; never the row itself, across blocks too."""
    vectors = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    near = nearest(vectors, 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    wanted = -np.sort(-cosines, axis=1)[:, : min(4, rows - 1)]
    np.testing.assert_allclose(near.cosines, wanted, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, near.rows, axis=1), wanted, atol=1e-5)


def place(root: Path, id: str, photo: Image.Image | bytes) -> None:
    (root / id).parent.mkdir(parents=True, exist_ok=True)
    (root / id).write_bytes(photo if isinstance(photo, bytes) else jpeg(photo))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photos of three labels in two splits; of some there is a copy, one copy has another label; one is none."""
    root = tmp_path_factory.mktemp("photos")
    some = random.Random(1).sample([tile for _, tile in tiles(128)], 30)
    for number, tile in enumerate(some):
        place(root, f"{'train' if number < 24 else 'test'}/{'abc'[number % 3]}/{number:02}.jpg", tile)
    shutil.copy(root / "train/a/00.jpg", root / "train/a/same.jpg")
    place(root, "train/a/scaled.jpg", EDITS["scaled"](some[24]))
    place(root, "train/a/other-label.jpg", EDITS["encoded"](some[25]))
    place(root, "train/a/broken.jpg", b"no photo")
    return root


def vectors_of(folder: Path) -> Vectors:
    """Small ones, quickly: the photo at 8 × 8 pixels."""
    found, _ = see(read_photos(str(folder)))
    rows = [Image.open(folder / each.photo.id).convert("RGB").resize((8, 8)) for each in found]
    vectors = np.stack([np.asarray(row, np.float32).ravel() - 128 for row in rows])
    return Vectors([each.photo for each in found], vectors)


def prepared(folder: Path, out: Path, *, clean: bool = False, anew: bool = False) -> Prepared:
    settings = Settings(str(folder), "", Shares(0.6, 0.2, 0.2) if anew else None, clean=clean)
    return prepare(read_photos(str(folder)), settings, out, vectors_of(folder))


def test_what_is_found(folder: Path, tmp_path: Path) -> None:
    """Copies within and across splits, two labels of one picture, what is no photo; the split stays what it was."""
    made = prepared(folder, tmp_path)
    found = made.findings
    assert {tuple(photo.id for photo in group.photos): group.is_exact for group in found.groups} == {
        ("train/a/00.jpg", "train/a/same.jpg"): True,
        ("test/a/24.jpg", "train/a/scaled.jpg"): False,
        ("test/b/25.jpg", "train/a/other-label.jpg"): False,
    }
    assert [group.photos[0].id for group in found.across] == ["test/a/24.jpg", "test/b/25.jpg"]
    assert [group.labels for group in found.conflicts] == [["a", "b"]]
    assert [error.path for error in found.failed] == [str(folder / "train/a/broken.jpg")]
    read = read_photos(str(tmp_path / "photos.csv"))
    assert [photo._replace(group="") for photo in read.all] == read_photos(str(folder)).all
    assert read.source.read("train/a/broken.jpg") == b"no photo"
    json.dumps(made.figures())


def test_a_clean_table(folder: Path, tmp_path: Path) -> None:
    """Each picture once, where it is to be reported on; none of two labels; and all files stay."""
    before = sorted(folder.rglob("*"))
    made = prepared(folder, tmp_path, clean=True)
    whole, table = read_photos(str(folder)).all, read_photos(str(tmp_path / "photos.csv")).all
    gone = {"same", "scaled", "other-label", "broken"}
    assert {photo.id for photo in whole} - {photo.id for photo in table} == {
        *(f"train/a/{name}.jpg" for name in gone),
        "test/b/25.jpg",
    }
    assert {left.id: left.why for left in made.left}["train/a/scaled.jpg"] == "shows what test/a/24.jpg shows"
    assert sorted(folder.rglob("*")) == before
    assert prepared(folder, tmp_path, clean=True).table == made.table


def test_leaks_flatter(tmp_path: Path) -> None:
    """With copies across splits retrieval looks perfect; in the clean table it is what it was without them."""
    chance = random.Random(3)
    some = [tile for name, tile in tiles(128) if name.startswith(("astronaut", "coffee", "chelsea", "motorcycle"))]
    for number, tile in enumerate(chance.sample(some, 40)):
        place(tmp_path, f"{'train' if number < 30 else 'test'}/{chance.choice('abc')}/{number:02}.jpg", tile)
    before = first_hits(tmp_path)
    for path in (tmp_path / "test").rglob("*.jpg"):
        place(tmp_path, f"train/{path.parent.name}/copy-{path.name}", EDITS["encoded"](Image.open(path)))
    (tmp_path / ".out").mkdir()
    table = prepared(tmp_path, tmp_path / ".out", clean=True).table
    assert first_hits(tmp_path) == 1.0
    assert first_hits(tmp_path, table) == before < 0.8


def first_hits(folder: Path, table: Sequence[Photo] | None = None) -> float:
    """Of the test photos, the share whose nearest photo of the train split has their label."""
    vectors = vectors_of(folder)
    if table is not None:
        names = {photo.id for photo in table}
        places = [place for place, photo in enumerate(vectors.photos) if photo.id in names]
        vectors = Vectors([vectors.photos[place] for place in places], vectors.vectors[places])
    return evaluate(vectors.of("test"), vectors.of("train"), "cosine").measures.mean("hit@1")


def test_the_report_shows_each_finding(folder: Path, tmp_path: Path) -> None:
    """On one page, which needs nothing else; what the files are named is never markup."""
    place(folder, "train/c/<b>.jpg", (folder / "train/c/02.jpg").read_bytes())
    prepared(folder, tmp_path)
    (folder / "train/c/<b>.jpg").unlink()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 2 + 2 + 2 * 2 + 2 * 2
    assert "train/c/&lt;b&gt;.jpg" in page
    assert "http" not in page
    for text in ("broken.jpg", "In more than one split: 2", "With more than one label: 1", "The same picture: 2"):
        assert text in page


def test_a_split_has_no_picture_twice(folder: Path, tmp_path: Path) -> None:
    made = prepared(folder, tmp_path, anew=True)
    of_group: dict[str, set[str]] = {}
    for photo in made.table:
        of_group.setdefault(photo.group or photo.id, set()).add(photo.split)
    assert all(len(splits) == 1 for splits in of_group.values())
    assert {label: set(of) for label, of in made.figures()["labels"].items()} == {
        label: {"train", "validation", "test"} for label in "abc"
    }


def test_a_given_group_stays_together(tmp_path: Path) -> None:
    """What a table says to be one picture is, though nothing shows it."""
    some = [tile for _, tile in tiles(128)]
    for number in range(3):
        place(tmp_path, f"{number}.jpg", some[7 * number])
    seen, _ = see(read_photos(str(tmp_path)))
    seen = [each._replace(photo=each.photo._replace(group="x" * (row < 2))) for row, each in enumerate(seen)]
    found = groups(source_of(tmp_path), seen, nearest(np.eye(3, dtype=np.float32), 2))
    assert [[photo.id for photo in group.photos] for group in found] == [["0.jpg", "1.jpg"]]
    assert unique(seen) == [0, 1, 2]


def test_what_is_like_no_other(tmp_path: Path) -> None:
    """A vector far away from all others is an outlier, and nothing else is."""
    for number, (_, tile) in zip(range(30), tiles(64), strict=False):
        place(tmp_path, f"{number:02}.jpg", tile)
    seen, failed = see(read_photos(str(tmp_path)))
    vectors = np.random.default_rng(0).normal(1, 0.5, (30, 64)).astype(np.float32)
    vectors[17] = -1
    found = examine(source_of(tmp_path), seen, failed, vectors)
    assert [one.photo.id for one in found.outliers] == ["17.jpg"]
    assert found.outliers[0].cosine < 0


def test_a_split_is_stratified_and_made_again() -> None:
    """Each label has its shares; the same seed gives the same, another one another; small labels are not lost."""
    photos = [Photo(f"{number:04}", f"{number % 5}", group=f"{number // 10}") for number in range(500)]
    photos = [photo._replace(group="") if photo.label in "234" else photo for photo in photos]
    photos += [Photo("few-1", "few"), Photo("few-2", "few"), *(Photo(f"three-{n}", "three") for n in range(3))]
    made = split(photos, Shares(), 0)
    assert made == split(photos[::-1], Shares(), 0) != split(photos, Shares(), 1)
    for label in "234":
        assert Counter(photo.split for photo in made if photo.label == label) == {
            "train": 70,
            "validation": 15,
            "test": 15,
        }
    assert {photo.split for photo in made if photo.label == "few"} == {"train"}
    assert Counter(photo.split for photo in made if photo.label == "three") == {"train": 1, "validation": 1, "test": 1}
    by_group = {(photo.group, photo.split) for photo in made if photo.group}
    assert len(by_group) == 50


@pytest.mark.parametrize("text", ["0.5,0.5", "1,0,0", "0.5,0.3,0.3", "a,b,c", ""])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="three shares"):
        shares(text)


def test_labels_that_are_not_enough() -> None:
    assert warnings([Photo("a", "hat"), Photo("b", "hat"), Photo("c", "")]) == [
        "1 photos have no label",
        "all labels are 'hat': there is nothing to tell apart",
    ]
    assert warnings([Photo("a", "hat"), Photo("b", "hat"), Photo("c", "tie")]) == [
        "labels of one photo, which has no other to be found by: tie"
    ]


def test_a_copy_stays_that_has_a_label() -> None:
    group = Group((Photo("a", "", "train"), Photo("b", "hat", "train")), is_exact=True)
    assert [left.id for left in Findings([], [], [group], []).left()] == ["a"]


def test_a_copy_stays_that_is_reported_on() -> None:
    group = Group(
        (Photo("a", "hat", "train"), Photo("b", "hat", "validation"), Photo("c", "hat", "test")), is_exact=True
    )
    assert [left.id for left in Findings([], [], [group], []).left()] == ["a", "b"]


def test_nothing_to_examine(tmp_path: Path) -> None:
    """No photos, or none that can be read: one message with a reason, and nothing is written."""
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidArgument, match="there are no photos"):
        prepare(read_photos(str(tmp_path)), Settings("", ""), tmp_path / "out")
    (tmp_path / "photos.csv").write_text("path,label\ngone.jpg,hat\n")
    with pytest.raises(InvalidArgument, match=r"none of 1 photos can be decoded; .*gone.jpg: .*No such file"):
        prepare(read_photos(str(tmp_path / "photos.csv")), Settings("", ""), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_data_set_of_torchvision(tmp_path: Path) -> None:
    """Its pictures are files in folders of their splits and labels, and what it calls its labels is kept."""
    raw = tmp_path / "cache/MNIST/raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 3, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 3) + bytes([4, 9, 4]))
    found = of_torchvision("MNIST", tmp_path / "cache", tmp_path / "photos")
    assert Counter((photo.label, photo.split) for photo in found.all) == {
        ("4 - four", "train"): 2,
        ("9 - nine", "train"): 1,
        ("4 - four", "test"): 2,
        ("9 - nine", "test"): 1,
    }
    first = found.source.read(next(photo.id for photo in found.of("train").all if photo.label.startswith("9")))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), pixels[1])
    assert read_photos(str(tmp_path / "photos")).all[0].split == "test"


def test_no_such_data_set_of_torchvision(tmp_path: Path) -> None:
    for name in ("NoSuch", "mnist", "os"):
        with pytest.raises(InvalidArgument, match="torchvision"):
            of_torchvision(name, tmp_path, tmp_path / "photos")


def test_a_table_says_where_its_photos_are(tmp_path: Path) -> None:
    """In a folder that holds the other, from there, so that both can be moved; a manifest that is none is refused."""
    place(tmp_path, "photos/hat/a.jpg", photos()["coffee"])
    (tmp_path / "photos/made").mkdir()
    prepare(
        read_photos(str(tmp_path / "photos")),
        Settings("", ""),
        tmp_path / "photos/made",
        vectors_of(tmp_path / "photos"),
    )
    (tmp_path / "photos").rename(tmp_path / "moved")
    table = read_photos(str(tmp_path / "moved/made/photos.csv"))
    assert table.source.read("hat/a.jpg")
    with (tmp_path / "moved/made/photos.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["hat/a.jpg"]
    (tmp_path / "moved/made/dataset.json").write_text("[]")
    with pytest.raises(InvalidArgument, match="does not say where the photos are"):
        read_photos(str(tmp_path / "moved/made/photos.csv"))
