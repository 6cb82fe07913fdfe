import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat
from typer.testing import CliRunner

from vitrail.cli import demo, demo_photos
from vitrail.cli.demo import Outcome, Summary, Trial, choose_shown, is_trained, judge, make_trials, recall
from vitrail.cli.demo_photos import SMALLEST_SIDE, Place, choose_squares, squares
from vitrail.cli.edits import EDITS, Edit
from vitrail.client import Coverage, Hit, IndexInfo, PartitionStats, SearchResult, Timings

BY_NAME = {edit.name: edit for edit in EDITS}
COVERAGE = Coverage(2, 2, 10, 10, 1.0, {})
INDEX = IndexInfo(True, False, 4, "1", "space", 10)
TIMINGS = Timings(0, 0, 0, 0, 0, 0, 0, 0)


def photo(side: int = 120, seed: int = 0) -> Image.Image:
    """A picture in which every part differs from every other."""
    coarse = np.random.default_rng(seed).integers(40, 200, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def answer(*ids: str) -> SearchResult:
    return SearchResult(tuple(Hit(id, 1.0, {}) for id in ids), COVERAGE, INDEX, TIMINGS)


def outcome(*right: bool, edit: str = "flip", original: str = "a") -> Outcome:
    return Outcome(Trial(BY_NAME[edit], original, b""), right, answer())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Place("cat", (0, 0, 90, 90)), True),
        (Place("cat", (30, 0, 120, 90)), True),  # a third of the side further: the half of both together
        (Place("cat", (31, 0, 121, 90)), False),
        (Place("cat", (30, 30, 120, 120)), False),
        (Place("cat", (0, 0, 60, 60)), False),  # inside, but less than half
        (Place("cat", (90, 0, 180, 90)), False),
        (Place("dog", (0, 0, 90, 90)), False),
    ],
)
def test_same_place(other: Place, same: bool) -> None:
    """Places are the same from half an overlap on, in both directions, and never of two photos."""
    place = Place("cat", (0, 0, 90, 90))
    assert place.same(other) is other.same(place) is same


@pytest.mark.parametrize("size", [(640, 427), (300, 451), (512, 512), (1024, 1024)])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_squares(size: tuple[int, int], parts: int) -> None:
    """Squares lie within the photo, and next neighbours are of the same place."""
    boxes = squares(size, parts)
    assert len(boxes) == len(set(boxes)) >= (3 * parts - 2) ** 2
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert right - left == bottom - top >= SMALLEST_SIDE
    assert Place("a", boxes[0]).same(Place("a", boxes[1]))


def test_no_square_is_too_small() -> None:
    """A photo that is too small for a scale gives no squares of it."""
    assert squares((2 * SMALLEST_SIDE - 2, 900), 2) == []


def test_as_many_squares_as_wanted() -> None:
    """Larger scales come whole before smaller ones; the last one is cut short, the same way each time."""
    sizes = [(400, 300), (90, 90), (800, 600)]
    chosen = choose_squares(sizes, 100)
    assert sum(map(len, chosen)) == 100
    assert chosen == choose_squares(sizes, 100)
    assert chosen[1] == []
    assert set(squares(sizes[0], 2)) < set(chosen[0])
    assert set(squares(sizes[2], 2)) < set(chosen[2])


def test_squares_end() -> None:
    """Where photos do not have as many squares as wanted, all they have are taken."""
    all_there_are = sum(len(squares((300, 300), parts)) for parts in range(2, 9))
    assert [len(boxes) for boxes in choose_squares([(300, 300)], 10_000)] == [all_there_are]


def test_records_are_files(tmp_path: Path) -> None:
    """Photos and squares are written below the name of their photo; what cannot be read is left out."""
    photo(400).save(tmp_path / "one.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    photos = demo_photos.photos_of(tmp_path)
    assert list(photos) == ["bad.jpg", "one.png"]
    whole = dict(demo_photos.write_photos(photos, tmp_path / "out"))
    assert whole == {"one.png/photo.jpg": Place("one.png", (0, 0, 400, 400))}
    cut = dict(demo_photos.write_squares(whole, tmp_path / "out", 5))
    assert len(cut) == 5
    for name, place in (whole | cut).items():
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (place.box[2] - place.box[0], place.box[3] - place.box[1])


def test_photos_are_upright_and_bounded(tmp_path: Path) -> None:
    """A large photo that lies on its side is turned and made smaller before it is cut."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(200).resize((2400, 1200)).save(tmp_path / "a.jpg", exif=exif)
    [(_, place)] = demo_photos.write_photos({"a": tmp_path / "a.jpg"}, tmp_path / "out")
    assert place.box == (0, 0, 512, 1024)


def test_packaged_photos_are_there() -> None:
    """Photos come with the packages, and enough of them for the demo."""
    photos = demo_photos.packaged_photos()
    assert {"astronaut", "china"} <= photos.keys()
    assert len(photos) >= 10


def test_plain() -> None:
    """A picture of one colour is plain, one with something in it is not."""
    assert demo_photos.is_plain(Image.new("RGB", (50, 50), "navy"))
    assert not demo_photos.is_plain(photo())


def test_spread_takes_photos_in_turn() -> None:
    """One record of each photo comes before the second of any, and all come once."""
    places = {f"{name}{number}": Place(name, (0, 0, 9, 9)) for name in "abc" for number in range(3)}
    order = list(demo_photos.spread(places))
    assert sorted(order) == sorted(places)
    assert {name[0] for name in order[:3]} == {name[0] for name in order[3:6]} == set("abc")
    assert order == list(demo_photos.spread(places))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_edits_change_the_picture(edit: Edit) -> None:
    """Every edit gives another picture, whose place is as much of the original as it says it shows."""
    original = photo()
    edited = edit.change(original)
    place = Place("a", (0, 0, *original.size)).middle(edit.shows)
    assert edited.size == (place.box[2] - place.box[0], place.box[3] - place.box[1])
    with Image.open(io.BytesIO(edit.jpeg(original))) as sent:
        difference = ImageChops.difference(original.crop(place.box), sent.convert("RGB"))
    assert max(ImageStat.Stat(difference).mean) > 1.0


def test_a_crop_shows_the_middle() -> None:
    """What a crop shows is where the place says it is."""
    place = Place("a", (0, 0, 120, 120)).middle(BY_NAME["crop"].shows)
    assert place.box == (18, 18, 102, 102)
    assert BY_NAME["crop"].change(photo()).tobytes() == photo().crop(place.box).tobytes()


def test_trials(tmp_path: Path) -> None:
    """Every edit is made of each record, but none of plain ones."""
    Image.new("RGB", (80, 80), "navy").save(tmp_path / "plain.jpg")
    photo().save(tmp_path / "telling.jpg")
    places = {name: Place(name, (0, 0, 80, 80)) for name in ("plain.jpg", "telling.jpg")}
    trials = list(make_trials(tmp_path, places))
    assert [(trial.original, trial.edit) for trial in trials] == [("telling.jpg", edit) for edit in EDITS]


@pytest.mark.parametrize(
    ("edit", "hits", "right"),
    [
        ("flip", ["b", "a", "near", "far", "inside"], [False, True, True, False, False]),
        # A crop shows the inner part: what is there is right now, and what lies beside the original no longer.
        ("crop", ["a", "near", "inside"], [True, False, True]),
        ("flip", [], []),
    ],
)
def test_judging(edit: str, hits: Sequence[str], right: Sequence[bool]) -> None:
    """A hit is right when it is the original, or of the place that the query shows."""
    places = {
        "a": Place("cat", (0, 0, 90, 90)),
        "b": Place("dog", (0, 0, 90, 90)),
        "near": Place("cat", (30, 0, 120, 90)),
        "far": Place("cat", (90, 90, 180, 180)),
        "inside": Place("cat", (15, 15, 75, 75)),
    }
    assert judge(Trial(BY_NAME[edit], "a", b""), answer(*hits), places).right == right


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, True),
        ({"tail": 7}, True),  # what is left over when rows are folded in groups of eight
        ({"tail": 300}, False),
        ({"state": "training"}, False),
        ({"seq": 1199}, False),
    ],
)
def test_waiting_for_training(changes: dict[str, Any], trained: bool) -> None:
    """A shard is waited for until all records are there and nearly all of them in its trained index."""
    shard = PartitionStats(0, "a:1", "a:2", True, "trained", 600, 0, 1200, "", "1", "IVF12", 4)
    assert is_trained(dataclasses.replace(shard, **changes), 1200) is trained


def test_recall() -> None:
    """Recall is the share of queries with a right hit among the first so many."""
    outcomes = [outcome(True, False), outcome(False, True), outcome(False, False), outcome()]
    assert recall(outcomes) == 0.5
    assert recall(outcomes, 1) == 0.25


def test_the_gallery_shows_every_edit() -> None:
    """Some queries of each edit are shown, the first ones made from different records."""
    outcomes = [outcome(edit=edit.name, original=str(number)) for number in range(demo.ORIGINALS) for edit in EDITS]
    shown = choose_shown(outcomes)
    assert [one.trial.edit for one in shown] == [edit for edit in EDITS for _ in range(demo.ROWS)]
    assert len({one.trial.original for one in shown}) == len(shown)


def test_the_last_line() -> None:
    """The last line has the form that scripts read."""
    summary = Summary(records=1200, recall=0.9618, coverage=1.0, shards=2, trained=True)
    assert str(summary) == "demo: records=1200 recall@10=0.962 coverage=1.000 shards=2 trained=true"
    assert summary.problems(0.9) == ""


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (Summary(1200, 0.89, 1.0, 2, True), "recall@10 is below 0.9"),
        (Summary(1200, 0.95, 0.5, 2, True), "a part of the records was not searched"),
        (Summary(1200, 0.95, 1.0, 1, True), "not all of 2 shards answered"),
        (Summary(1200, 0.95, 1.0, 2, False), "not every partition is trained"),
    ],
)
def test_problems(changed: Summary, problem: str) -> None:
    """Whatever is not as it must be is named."""
    assert changed.problems(0.9) == problem


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages that carry photos, the demo says what to install."""
    monkeypatch.setitem(demo_photos.PACKAGED, "no_such_package", ("data", ("a.png",)))
    with pytest.raises(demo_photos.MissingPackage, match="no_such_package"):
        demo_photos.packaged_photos()
    result = CliRunner().invoke(demo.app, [])
    assert result.exit_code == 1
    assert "no_such_package, which is missing: pip install 'vitrail[all,demo]'" in result.output


def test_a_process_is_ended_whatever_happens() -> None:
    """A process ends with the block it was started for, also when that fails."""
    with pytest.raises(KeyError), demo._ended(_sleeper()) as process:
        raise KeyError
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def _sleeper() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)
