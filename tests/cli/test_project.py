"""`vitrail project`: from a folder of photos to an embedder that a server takes at once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.server.images import photo_files
from typer.testing import CliRunner

from vitrail.cli.main import app
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.names import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos, and one file that is none."""
    made = tmp_path_factory.mktemp("photos")
    for name in list(photo_files())[:8]:
        shutil.copy(photo_files()[name], made)
    (made / "broken.jpg").write_bytes(b"no photo")
    return made


def test_a_file_that_is_served_at_once(folder: Path, tmp_path: Path) -> None:
    """It gives the principal components of the default embedder's features, whitened; what is no photo is listed."""
    out = tmp_path / "model.safetensors"
    said = CliRunner().invoke(app, ["project", str(folder), "--dimension", "5", "--whiten", "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert "broken.jpg" in said.output
    assert "8 photos" in said.output
    embedder = make(f"file:{out}", threads=2, precision="full")
    recipe = embedder.preprocessing
    assert (embedder.dimension, embedder.normalised, recipe) == (5, False, EfficientNetLite0.own)
    paths = sorted(path for path in folder.iterdir() if path.name != "broken.jpg")
    images = [decode(path.read_bytes(), ImageLimits(), recipe.target) for path in paths]
    vectors = embedder.embed(np.stack([recipe.apply(image) for image in images]))
    np.testing.assert_allclose(np.cov(vectors.T), np.eye(5), atol=1e-2)


def test_a_file_is_projected_once_more(folder: Path, tmp_path: Path) -> None:
    """Where it has a projection, the new one is fitted to what that gives, and both are one."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for embedder, dimension, out in (("", "6", first), (f"file:{first}", "4", second)):
        words = ["--embedder", embedder, "--dimension", dimension, "--whiten", "--out", str(out)]
        said = CliRunner().invoke(app, ["project", str(folder), *words])
        assert said.exit_code == 0, said.output
    images = [decode(path.read_bytes(), ImageLimits(), 256) for path in sorted(folder.glob("*.png"))]
    six, four = (make(f"file:{path}", threads=2, precision="full") for path in (first, second))
    pixels = np.stack([six.preprocessing.apply(image) for image in images])
    before, after = six.embed(pixels), four.embed(pixels)
    assert four.dimension == 4
    np.testing.assert_allclose(after.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(after.T), np.eye(4), atol=1e-2)
    shared = np.linalg.lstsq(before, after)[0]
    np.testing.assert_allclose(before @ shared, after, atol=1e-2)


def test_photos_that_measure_are_not_fitted_to(folder: Path, tmp_path: Path) -> None:
    """Of a table with splits, train alone."""
    table, out = tmp_path / "photos.csv", tmp_path / "model.safetensors"
    names = sorted(path.name for path in folder.iterdir() if path.name != "broken.jpg")
    rows = [f"{name},thing,{split}" for name, split in zip(names, ["train"] * 4 + ["test"] * 4, strict=True)]
    table.write_text("\n".join(["path,label,split", *rows]))
    (tmp_path / "dataset.json").write_text(json.dumps({"photos": str(folder)}))
    said = CliRunner().invoke(app, ["project", str(table), "--dimension", "3", "--out", str(out), "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["photos"] == 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--dimension", "10"], "9 photos are too few for 10 dimensions"),
        (["--dimension", "9"], "8 photos that can be decoded are too few for 9 dimensions"),
        (
            ["--dimension", "2", "--embedder", "onnx:model.onnx"],
            "only efficientnet-lite0, models of timm or",
        ),
        (["--dimension", "2", "--embedder", "efficientnet-lite0?fit=round"], "fit"),
    ],
    ids=["few-files", "few-photos", "no-file-can-hold-it", "no-such-option"],
)
def test_what_cannot_be_fitted(folder: Path, tmp_path: Path, words: list[str], why: str) -> None:
    """One line says why, and no file is written."""
    out = tmp_path / "model.safetensors"
    said = CliRunner().invoke(app, ["project", str(folder), "--out", str(out), *words])
    assert said.exit_code == 1
    assert why in said.output
    assert not out.exists()


def test_no_file_is_overwritten(folder: Path, tmp_path: Path) -> None:
    """A model that some server may embed with stays what it is."""
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"a model")
    said = CliRunner().invoke(app, ["project", str(folder), "--out", str(out), "--dimension", "2"])
    assert (said.exit_code, out.read_bytes()) == (1, b"a model")
    assert "exists already" in said.output
