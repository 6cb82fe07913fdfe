"""`vitrail dataset`: from a folder to a table, a manifest and a report."""

import json
import shutil
from pathlib import Path

import pytest
from tests.server.images import photo_files
from typer.testing import CliRunner

from vitrail.cli.main import app
from vitrail.training.photos import read_photos


def test_a_folder_becomes_a_table(tmp_path: Path) -> None:
    """With the default embedder; figures for programs are all that is on standard output."""
    for number, name in enumerate(list(photo_files())[:6]):
        for copy in range(1 + (number == 0)):
            (tmp_path / f"photos/{number % 2}").mkdir(parents=True, exist_ok=True)
            shutil.copy(photo_files()[name], tmp_path / f"photos/{number % 2}/{number}-{copy}.jpg")
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["dataset", str(tmp_path / "photos"), "--out", str(out), "--clean", "--json"])
    assert said.exit_code == 0, said.output
    figures = json.loads(said.stdout)
    assert [group["photos"] for group in figures["groups"]] == [["0/0-0.jpg", "0/0-1.jpg"]]
    assert {photo.split for photo in read_photos(str(out / "photos.csv")).all} == {"train", "validation", "test"}
    assert figures["counts"]["left out of the table"] == 1
    assert "The same file: 1" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["no-such-folder"], "no-such-folder is not a folder"),
        (["."], "there are no photos"),
        ([".", "--split", "1,1,1"], "three shares"),
        (["torchvision:NoSuch"], "torchvision has no data set 'NoSuch'"),
        (["no-such.csv"], "no-such.csv cannot be read"),
    ],
)
def test_what_cannot_be_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str) -> None:
    """One line says why."""
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["dataset", *words, "--out", "out"])
    assert said.exit_code == 1
    assert why in said.output
