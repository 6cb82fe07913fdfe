"""Fine-tuning: what is learned, what goes on after a kill, what is refused; with a tiny model and drawn photos."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.server.images import jpeg
from vitrail.client import InvalidArgument
from vitrail.server.embedders import exported
from vitrail.server.embedders.hub import timm_model
from vitrail.server.embedders.names import make
from vitrail.training import checkpoints, fine_tuning
from vitrail.training.curves import Epoch
from vitrail.training.fine_tuning import Diverged, Trained, fine_tune
from vitrail.training.photos import read_photos
from vitrail.training.ranking import evaluate
from vitrail.training.settings import Loss, Settings
from vitrail.training.vectors import embed

COLOURS = {"red": (50, 0, 0), "green": (0, 50, 0), "blue": (0, 0, 50)}
SIDE = 40


def drawn(colour: tuple[int, int, int], random: np.random.Generator) -> bytes:
    """A photo that differs from others in its brightness more than in its colour."""
    pixels = random.normal(random.uniform(20, 180), 10, (SIDE, SIDE, 1)) + np.array(colour)
    return jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of three colours, in two splits, and one file that is no photo."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(1)
    for split, count in (("train", 6), ("validation", 3)):
        for label, colour in COLOURS.items():
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                (root / split / label / f"{number}.jpg").write_bytes(drawn(colour, random))
    (root / "train/red/broken.jpg").write_bytes(b"no photo")
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network that knows nothing yet."""
    torch.manual_seed(1)
    backbone = timm_model("test_resnet", "native", pretrained=False)
    recipe = backbone.preprocessing.model_copy(update={"resize": 32, "crop": 32})
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    exported.save(path, exported.Header(architecture="test_resnet", preprocessing=recipe), backbone)
    return f"file:{path}"


def settings(embedder: str, **changed: object) -> Settings:
    usual: dict[str, object] = {
        "embedder": embedder,
        "epochs": 2,
        "batch": 6,
        "precision": "full",
        "warm_up": 0,
        "freeze": 0,
    }
    return Settings.model_validate(usual | changed)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    state = checkpoints.read(trained.model.parent / fine_tuning.CHECKPOINT)
    assert state
    found: dict[str, torch.Tensor] = state["model"]
    return found


@pytest.mark.parametrize("loss", ["cross-entropy", "arcface", "proxy-anchor", "triplet", "contrastive"])
def test_each_loss_teaches(folder: Path, tiny: str, tmp_path: Path, loss: Loss) -> None:
    """What the loss measures becomes smaller, and the best model is the one that is exported."""
    own = settings(tiny, loss=loss, epochs=4, learning_rate=3e-3, patience=4, per_class=3, augmentation="none")
    photos = read_photos(str(folder))
    trained = fine_tune(photos, own, tmp_path, workers=0)
    first, *_, last = (epoch.loss for epoch in trained.epochs if epoch.loss is not None)
    assert last < 0.95 * first
    found = embed(make(f"file:{trained.model}", threads=1, precision="full"), photos.of("validation"))
    assert evaluate(found, found).measures.mean("AP") == pytest.approx(trained.best.mean_average_precision)


def test_the_folder_of_a_run(folder: Path, tiny: str, tmp_path: Path) -> None:
    """A model with its card, curves, events; what cannot be read is told."""
    told: list[Epoch] = []
    trained = fine_tune(read_photos(str(folder)), settings(tiny), tmp_path, workers=0, told=told.append)
    assert [error.path for error in trained.failed] == [str(folder / "train/red/broken.jpg")]
    assert list(trained.epochs) == told
    assert [epoch.epoch for epoch in told] == [0, 1, 2]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
    assert list((tmp_path / "events").iterdir())
    assert not list(tmp_path.glob("*.partial"))
    card = json.loads((tmp_path / "card.json").read_text())
    with safe_open(trained.model, "pt") as file:
        assert json.loads(file.metadata()["card"]) == card
    assert card["data"]["train"] == {"blue": 6, "green": 6, "red": 7}
    assert card["best"]["epoch"] == trained.best.epoch
    assert make(f"file:{trained.model}", threads=1, precision="full").space.endswith(f":{card['fingerprint']}")
    assert Settings.model_validate(card["settings"]) == settings(tiny)


def test_the_same_again(folder: Path, tiny: str, tmp_path: Path) -> None:
    """The seed decides, and not how many processes load the photos."""
    runs = [
        fine_tune(read_photos(str(folder)), settings(tiny, seed=seed), tmp_path / str(number), workers=workers)
        for number, (seed, workers) in enumerate([(1, 0), (1, 1), (2, 0)])
    ]
    one, other, third = map(weights, runs)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(tensor, third[name], atol=1e-3) for name, tensor in one.items())


KILLED = """
import os, signal, sys
from pathlib import Path
from vitrail.training import fine_tuning
from vitrail.training.photos import read_photos
from vitrail.training.settings import Settings

folder, out, text, last = sys.argv[1:]

class Dying(fine_tuning.Run):
    def learn(self, batch):
        if self.step == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().learn(batch)

fine_tuning.Run = Dying
settings = Settings.model_validate_json(text)
fine_tuning.fine_tune(read_photos(folder), settings, Path(out), workers=0, checkpoint_seconds=0)
"""


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(1, id="first-epoch", marks=pytest.mark.long),
        pytest.param(3, id="first-of-the-second", marks=pytest.mark.long),
        pytest.param(4, id="second-epoch"),
    ],
)
def test_goes_on_after_a_kill(folder: Path, tiny: str, tmp_path: Path, last: int) -> None:
    """Killed in the middle of an epoch and begun again, it comes to the same weights within 1e-6, and figures."""
    own = settings(tiny, augmentation="strong")
    whole = fine_tune(read_photos(str(folder)), own, tmp_path / "whole", workers=0)
    out = tmp_path / "killed"
    words = [sys.executable, "-c", KILLED, str(folder), str(out), own.model_dump_json(), str(last)]
    assert subprocess.run(words, check=False, timeout=240).returncode == -signal.SIGKILL
    again = fine_tune(read_photos(str(folder)), own, out, workers=0)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(again)[name], atol=1e-6, rtol=1e-5)
    for one, other in zip(whole.epochs, again.epochs, strict=True):
        assert (one.loss or 0) == pytest.approx(other.loss or 0, rel=1e-5)
        assert one[2:5] == pytest.approx(other[2:5], rel=1e-5)


def test_what_is_over_stays(folder: Path, tiny: str, tmp_path: Path) -> None:
    """Run again, it says what came out; other photos or settings are another run, with another folder."""
    own = settings(tiny)
    first = fine_tune(read_photos(str(folder)), own, tmp_path, workers=0)
    before = first.model.read_bytes()
    assert fine_tune(read_photos(str(folder)), own, tmp_path, workers=0).best == first.best
    assert first.model.read_bytes() == before
    with pytest.raises(InvalidArgument, match="other photos or settings"):
        fine_tune(read_photos(str(folder)), settings(tiny, epochs=3), tmp_path, workers=0)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(InvalidArgument, match="exists already"):
        fine_tune(read_photos(str(folder)), own, tmp_path, workers=0)


def test_stops_when_it_gets_no_better(folder: Path, tiny: str, tmp_path: Path) -> None:
    """Patience is counted in epochs after the best one, whose model is exported."""
    own = settings(tiny, epochs=9, patience=2, learning_rate=1e-9, head_rate=1e-9, freeze=4)
    trained = fine_tune(read_photos(str(folder)), own, tmp_path, workers=0)
    assert len(trained.epochs) == 1 + trained.best.epoch + 2 < 9


def test_frozen_stages(folder: Path, tiny: str, tmp_path: Path) -> None:
    """Their weights do not move, those of later stages do; statistics of norms never."""
    start = exported.read(Path(tiny.removeprefix("file:"))).backbone.model.state_dict()
    found = weights(fine_tune(read_photos(str(folder)), settings(tiny, freeze=2), tmp_path, workers=0))
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, found[f"backbone.{name}"])}
    assert not [name for name in moved if name.startswith(("conv1", "bn1", "layer1"))]
    assert not [name for name in moved if "running_" in name]
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.weight"} <= moved


def test_a_loss_that_is_no_number(folder: Path, tiny: str, tmp_path: Path) -> None:
    """It stops at once and names the photos of the batch."""
    with pytest.raises(Diverged, match=r"the loss is nan at step \d.*train/(red|green|blue)/\d\.jpg"):
        fine_tune(read_photos(str(folder)), settings(tiny, learning_rate=1e30), tmp_path, workers=0)


def labelled(root: Path, photos: Sequence[str]) -> Path:
    for photo in photos:
        (root / photo).parent.mkdir(parents=True, exist_ok=True)
        (root / photo).touch()
    return root


@pytest.mark.parametrize(
    ("photos", "why"),
    [
        (["red/a.jpg"], "no labelled photo is in the train split"),
        (["train/red/a.jpg", "train/blue/a.jpg"], "in the validation split"),
        (["train/red/a.jpg", "validation/red/a.jpg"], "all photos show 'red'"),
        (["train/red/a.jpg", "train/blue/a.jpg", "validation/red/a.jpg", "validation/blue/a.jpg"], "no two photos"),
    ],
    ids=["no-split", "no-validation", "one-class", "nothing-to-find"],
)
def test_photos_that_teach_nothing(tiny: str, tmp_path: Path, photos: list[str], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        fine_tune(read_photos(str(labelled(tmp_path / "photos", photos))), settings(tiny), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photos_that_cannot_be_read(tiny: str, tmp_path: Path) -> None:
    """None of the train split: nothing can be learned, and it says why."""
    photos = [f"{split}/{label}/{name}.jpg" for split in ("train", "validation") for label in "ab" for name in "cd"]
    with pytest.raises(InvalidArgument, match=r"no photo of the train split can be read; .*train/a/c\.jpg: "):
        fine_tune(read_photos(str(labelled(tmp_path / "photos", photos))), settings(tiny), tmp_path / "out")


def test_too_many_stages(folder: Path, tiny: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="of 5 stages 5 cannot be frozen"):
        fine_tune(read_photos(str(folder)), settings(tiny, freeze=5), tmp_path / "out")


def test_a_teacher(folder: Path, tiny: str, tmp_path: Path) -> None:
    """It is one more thing to learn from: with one, other weights come of the same seed."""
    usual = settings(tiny, epochs=1, teacher=tiny)
    taught = fine_tune(read_photos(str(folder)), usual, tmp_path / "taught", workers=0)
    alone = fine_tune(read_photos(str(folder)), settings(tiny, epochs=1), tmp_path / "alone", workers=0)
    assert (taught.epochs[1].loss or 0) > (alone.epochs[1].loss or 0) > 0
    one, other = weights(taught), weights(alone)
    assert any(not torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in one.items())
    assert set(one) == set(other)
