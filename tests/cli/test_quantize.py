"""`vitrail quantize`: smaller files that embed as their original does."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.server.images import photo_files
from typer.testing import CliRunner

from vitrail.cli.main import app
from vitrail.server.embedders import exported
from vitrail.server.embedders.hub import timm_model
from vitrail.server.embedders.names import make
from vitrail.server.embedders.network import Floats
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.training.photos import read_photos
from vitrail.training.vectors import embed

SMALL = Preprocessing(resize=72, crop=64, mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen photos of two classes."""
    made = tmp_path_factory.mktemp("photos")
    for place, (name, path) in enumerate(photo_files().items()):
        (made / f"class-{place % 2}").mkdir(exist_ok=True)
        shutil.copy(path, made / f"class-{place % 2}" / name)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a recipe may say: a pooling, a projection, its own preprocessing, vectors that keep their length."""
    torch.manual_seed(7)
    backbone = timm_model("resnet10t", "average", pretrained=False)
    random = np.random.default_rng(3)
    projection = exported.fit_projection(random.normal(size=(600, 512)).astype(np.float32), 24, whiten=False)
    header = exported.Header(architecture="resnet10t", preprocessing=SMALL, pooling="average", normalise=False)
    path = tmp_path_factory.mktemp("model") / "big.safetensors"
    exported.save(path, header, backbone, projection)
    return path


def vectors(name: str, folder: Path) -> Floats:
    embedder = make(name, threads=2, precision="full")
    assert (embedder.preprocessing, embedder.normalised, embedder.dimension) == (SMALL, False, 24)
    return embed(embedder, read_photos(str(folder))).vectors


def quantized(folder: Path, model: Path, out: Path) -> dict[str, Any]:
    said = CliRunner().invoke(
        app, ["quantize", str(folder), "--embedder", f"file:{model}", "--out", str(out), "--json"]
    )
    assert said.exit_code == 0, said.output
    told: dict[str, Any] = json.loads(said.stdout)
    return told


@pytest.mark.parametrize(
    ("suffix", "kind", "share", "error"), [("safetensors", "file", 0.51, 1e-3), ("onnx", "onnx", 0.3, 0.1)]
)
def test_a_smaller_file(
    folder: Path, model: Path, tmp_path: Path, suffix: str, kind: str, share: float, error: float
) -> None:
    """It has the recipe of its original and gives almost its vectors, lengths and all; what it costs is told."""
    out = tmp_path / f"small.{suffix}"
    told = quantized(folder, model, out)
    before, after = vectors(f"file:{model}", folder), vectors(f"{kind}:{out}", folder)
    assert 0 < np.abs(after - before).max() < error * np.abs(before).max()
    original, small = told["embedders"]
    assert (original["bytes"], small["bytes"]) == (model.stat().st_size, out.stat().st_size)
    assert small["bytes"] < share * original["bytes"]
    assert min(original["images_per_second"], small["images_per_second"]) > 0
    cosines = np.einsum("nd,nd->n", before, after) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert told["cosine"] == pytest.approx({"mean": cosines.mean(), "least": cosines.min()}, abs=1e-2)
    assert cosines.min() > 0.99
    assert told["photos"] == 16
    for figure in ("precision_at_10", "mean_average_precision", "recall_at_1"):
        assert 0 <= small[figure] <= 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--out", "small.pt"], "give a name that ends in .safetensors"),
        (["--out", "nowhere/small.onnx"], "there is no such folder"),
        (["--out", "small.onnx", "--embedder", "onnx:other.onnx"], "models of timm or torchvision"),
        (["--out", "small.onnx", "--embedder", "file:none.safetensors"], "No such file"),
    ],
    ids=["suffix", "folder", "no-parts", "no-file"],
)
def test_what_cannot_be_made_smaller(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    """One line says why, and no file is written."""
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["quantize", str(folder), *words])
    assert (said.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert why in said.output
