"""`vitrail train`: what it refuses; what it makes is tested beside the training itself."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitrail.cli.main import app


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--batch", "1"], "--batch: Input should be greater than or equal to 2"),
        (["--loss", "hope"], "--loss: Input should be 'cross-entropy'"),
        ([], "no labelled photo is in the train split: `vitrail dataset` makes splits"),
    ],
    ids=["too-few", "no-such-loss", "no-split"],
)
def test_what_cannot_be_trained(tmp_path: Path, words: list[str], why: str) -> None:
    """One line says why, and no folder is made."""
    (tmp_path / "photos/hat").mkdir(parents=True)
    (tmp_path / "photos/hat/a.jpg").touch()
    out = tmp_path / "run"
    said = CliRunner().invoke(app, ["train", str(tmp_path / "photos"), "--out", str(out), *words])
    assert said.exit_code == 1
    assert why in said.output
    assert not out.exists()
