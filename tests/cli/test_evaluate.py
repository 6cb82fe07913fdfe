"""`vitrail evaluate`: from photos in folders of labels to figures, and a page that shows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vitrail.cli.main import app

COLOURS = {"blue": (20, 40, 230), "green": (20, 200, 40), "red": (230, 40, 20)}
MODELS = ("efficientnet-lite0", "efficientnet-lite0?fit=stretch")


def photo(path: Path, label: str, seed: int) -> None:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-20, 20, size=(48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noise + COLOURS[label], 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos each of two colours to learn from, one each to search with; one of a third, and one that is none."""
    made = tmp_path_factory.mktemp("photos")
    for label in ("green", "red"):
        for number in range(4):
            photo(made / ("train" if number else "test") / label / f"{number}.png", label, number)
    photo(made / "test" / "blue" / "alone.png", "blue", 0)
    (made / "train" / "red" / "broken.jpg").write_bytes(b"no photo")
    return made


def ran(*words: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_two_models_beside_each_other(folder: Path, tmp_path: Path) -> None:
    """Figures of both and how they differ, in total and by class; what cannot count is said; the page stands alone."""
    out = tmp_path / "report.html"
    said = ran(folder, "--embedder", MODELS[0], "--embedder", MODELS[1], "--json", "--out", out)
    assert said.exit_code == 0, said.output
    figures = json.loads(said.stdout)
    assert (figures["queries"], figures["counting"], figures["gallery"]) == (3, 2, 9)
    assert [run["name"] for run in figures["runs"]] == list(MODELS)
    assert figures["runs"][0]["total"]["mAP"] == {"mean": 1, "low": 1, "high": 1}
    assert figures["runs"][0]["total"]["P@10"]["mean"] == pytest.approx(0.3)
    assert {name: row["queries"] for name, row in figures["runs"][0]["classes"].items()} == {"green": 1, "red": 1}
    assert set(figures["differences"]) == {MODELS[1]}
    assert figures["notes"] == ["1 queries have nothing relevant in the gallery (of 'blue'): they do not count"]
    assert [Path(error["path"]).name for error in figures["failed"]] == ["broken.jpg"]
    page = out.read_text()
    assert page.count("data:image/jpeg") == 2 * 2 * 9
    assert page.count("<svg") == 5
    assert "broken.jpg" in page
    assert "1.0000 [1.000, 1.000]" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_tables_for_people(folder: Path) -> None:
    said = ran(folder, "--metric", "mahalanobis", "--queries", "train", "--gallery", "train")
    assert said.exit_code == 0, said.output
    assert "6 queries against 6 photos, mahalanobis" in said.output
    assert "mAP@R" in said.output
    assert "broken.jpg" in said.output


def test_pairs_instead_of_labels(folder: Path, tmp_path: Path) -> None:
    """The queries are those of the file, and nothing is said of classes."""
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,relevant\ntest/blue/alone.png,train/red/1.png\ntest/red/0.png,train/red/2.png\n")
    figures = json.loads(ran(folder, "--pairs", pairs, "--json").stdout)
    assert (figures["counting"], figures["runs"][0]["total"]["recall@10"]["mean"]) == (2, 1)
    assert figures["runs"][0]["total"]["mAP"]["mean"] < 1


@pytest.mark.parametrize(
    ("photos", "words", "why"),
    [
        (["red/a.png", "red/b.png"], [], "all photos show 'red'"),
        (["a.png", "b.png"], [], "no photo has a label"),
        (["red/a.png", "green/b.png"], ["--queries", "test"], "no photo is in the split 'test'"),
        (["red/a.png", "green/b.png"], ["--embedder", "no-such"], "there is no embedder 'no-such'"),
        (["red/a.png", "green/b.png"], ["--out", "no/such/report.html"], "no such folder"),
        ([], [], "no photo has a label"),
    ],
    ids=["one-class", "no-labels", "no-split", "no-embedder", "no-place", "no-photos"],
)
def test_what_cannot_be_evaluated(tmp_path: Path, photos: list[str], words: list[str], why: str) -> None:
    """One line says why."""
    for each in photos:
        photo(tmp_path / each, "red", 0)
    said = ran(tmp_path, *words)
    assert said.exit_code == 1
    assert why in said.output


def test_a_table_that_names_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    """Missing files are listed; the others are evaluated."""
    table = tmp_path / "photos.csv"
    rows = [
        f"{split}/{label}/{n}.png,{label}" for label in ("red", "green") for n, split in ((0, "test"), (1, "train"))
    ]
    table.write_text("\n".join(["path,label", *rows, "train/red/gone.png,red"]))
    said = ran(table, "--folder", folder, "--json")
    assert said.exit_code == 0, said.output
    figures = json.loads(said.stdout)
    assert [Path(error["path"]).name for error in figures["failed"]] == ["gone.png"]
    assert figures["counting"] == 4


def test_no_photo_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("path,label\na.png,red\nb.png,green\n")
    said = ran(tmp_path / "photos.csv")
    assert said.exit_code == 1
    assert "no photo can be read" in said.output
