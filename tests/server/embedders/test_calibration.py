"""What is measured of a model and kept, with real files and real networks, some of which take their time."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.server.embedders import network
from vitrail.server.embedders.calibration import ROUNDS, FixedPrecision, Kept, Trial
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Network, Pixels
from vitrail.server.embedders.preprocessing import Preprocessing

SMALL = Preprocessing(resize=8, crop=8, mean=(0.0,) * 3, std=(255.0,) * 3)
PHOTOS: Pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are kept; the device has half precision, and time to compare."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(network, "has_half", lambda _: True)
    monkeypatch.setattr(network, "COMPARING_SECONDS", 20.0)
    monkeypatch.setattr(network, "CPU_CHUNKS", (2, 4, 8))
    return tmp_path / "vitrail" / "calibration"


def kept(space: str = "a:1") -> Kept:
    return Kept(space=space, torch="2", device="cpu", threads=2)


class Model(torch.nn.Module):
    """The colours of an image; slow or blind in half precision, and with memory for so many, as a test wants it."""

    def __init__(self, *, slow: torch.dtype | None = None, blind: bool = False, room: int = 99) -> None:
        super().__init__()
        self.slow, self.blind, self.room = slow, blind, room
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        if images.dtype == self.slow:
            time.sleep(0.01)
        return images.mean((2, 3)) * (float("nan") if self.blind and images.dtype == torch.bfloat16 else 1.0)


def loaded(model: Model, space: str = "a:1") -> Network:
    return Network(model, SMALL, threads=1, space=space)


def found(cache: Path) -> list[tuple[FixedPrecision, int | None]]:
    """What is in the files."""
    choices = [json.loads(path.read_text()) for path in cache.glob("*")]
    return [(choice["precision"], choice["chunk"]) for choice in choices]


def test_a_choice_is_kept_for_what_it_was_measured_with() -> None:
    """It is read as it was written, and by nothing else."""
    kept().write("half", 2, 8)
    choice = kept().read()
    assert choice
    assert (choice.precision, choice.threads, choice.chunk) == ("half", 2, 8)
    assert kept("b:1").read() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text.replace("a:1", "b:1"),
        lambda text: text.replace("half", "quarter"),
        lambda text: text.replace("8}", "0}"),
        lambda text: text.replace("8}", '8,\n"more": 1}'),
    ],
    ids=["empty", "cut off", "of another space", "precision", "chunk", "unknown field"],
)
def test_a_file_that_cannot_be_used_is_none(change: "object") -> None:
    """Whatever is wrong with it."""
    kept().write("half", 1, 8)
    assert callable(change)
    before = kept().path.read_text()
    kept().path.write_text(change(before))
    assert kept().path.read_text() != before
    assert kept().read() is None


def test_without_a_cache_directory_nothing_fails(cache: Path) -> None:
    """It is measured again at each start."""
    cache.parent.write_text("a file in its place")
    kept().write("full", 1)
    assert kept().read() is None


def test_a_trial_takes_the_best_times() -> None:
    """Candidates come in turns; one bad time is no matter, and what is a little faster does not count."""
    trial = Trial("usual", ["faster", "slower"])
    times = {"usual": 1.0, "faster": 0.8, "slower": 1.1}
    turns = []
    while not trial.is_over:
        turns.append(trial.next)
        trial.took(turns[-1], times[turns[-1]] + (9 if len(turns) < 4 else 0))
    assert turns == ["usual", "faster", "slower"] * ROUNDS
    assert trial.best == "faster"
    trial.took("usual", 0.9)
    assert trial.best == "usual"


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (Model(slow=torch.float32), "half"),
        (Model(slow=torch.bfloat16), "full"),
        (Model(blind=True), "full"),
    ],
    ids=["faster", "slower", "not a number"],
)
def test_half_precision_where_it_pays(model: Model, precision: FixedPrecision, cache: Path) -> None:
    """Unless it is slower or its vectors are others; at the next start nothing is measured, whatever is faster then."""
    first = loaded(model)
    assert found(cache) == [(precision, None)]
    again = Model(slow=torch.bfloat16 if precision == "half" else torch.float32)
    second = loaded(again)
    assert again.sizes == []
    np.testing.assert_array_equal(second(PHOTOS), first(PHOTOS))


class Threaded(Model):
    """Slow with so many threads."""

    def __init__(self, slow_with: int) -> None:
        super().__init__(slow=torch.float32)
        self.slow_with = slow_with

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.get_num_threads() == self.slow_with:
            time.sleep(0.01)
        return super().forward(images)


@pytest.mark.parametrize(("slow_with", "chosen", "workers"), [(1, 3, 1), (3, 1, 3)])
def test_threads_share_a_batch_where_it_pays(slow_with: int, chosen: int, workers: int, cache: Path) -> None:
    """Where they do not, each is a worker of its own, whose weights are the same; that is kept, too."""
    embed = Network(Threaded(slow_with), SMALL, threads=3, space="a:1")
    [path] = cache.iterdir()
    assert json.loads(path.read_text())["threads"] == chosen
    for each in (embed, Network(Threaded(chosen), SMALL, threads=3, space="a:1")):
        copies = each.copies()
        assert [each, workers] == [copies[0], len(copies)]
        for copy in copies:
            np.testing.assert_array_equal(copy(PHOTOS), embed(PHOTOS))


def test_no_half_precision_without_instructions(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Then nothing is compared."""
    monkeypatch.setattr(network, "has_half", lambda _: False)
    model = Model()
    loaded(model)
    assert (model.sizes, found(cache)) == ([], [("full", None)])


def test_the_size_of_a_pass_is_measured_on_real_work(cache: Path) -> None:
    """Full batches are cut in different ways until it is known which is fastest: here, the one with fewest passes."""
    model = Model(slow=torch.float32, blind=True)
    embed = loaded(model)
    model.sizes.clear()
    expected = Network(Model(), SMALL, threads=1, precision="full")(PHOTOS)
    for _ in range(3 * ROUNDS):
        np.testing.assert_allclose(embed(PHOTOS), expected, atol=1e-6)
    assert sorted(model.sizes) == [2] * 4 * ROUNDS + [4] * 2 * ROUNDS + [8] * ROUNDS
    assert (embed.chunk, found(cache)) == (8, [("full", 8)])
    embed(PHOTOS)
    assert model.sizes[-1] == 8
    assert loaded(Model()).chunk == 8


def test_what_memory_does_not_hold_is_not_tried(cache: Path) -> None:
    """The first batch that is too large ends the trial."""
    embed = loaded(Model(room=3, slow=torch.float32))
    for _ in range(3 * ROUNDS):
        assert len(embed(PHOTOS)) == len(PHOTOS)
    assert embed.chunk == 2
    assert found(cache) == [("half", None)]


def test_what_is_asked_for_is_not_measured(cache: Path) -> None:
    """A precision that was named is that, and nothing is kept."""
    model = Model()
    Network(model, SMALL, threads=1, space="a:1", precision="half")
    assert model.sizes == []
    assert not cache.exists()


def test_the_default_embedder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """It keeps its choice under its space, and vectors are within the tolerance that its class states."""
    pixels = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    embedder = EfficientNetLite0(threads=2)
    vectors = embedder.embed(pixels)
    [path] = cache.iterdir()
    assert json.loads(json.loads(path.read_text())["of"])[0] == embedder.space
    full = EfficientNetLite0(threads=2, precision="full").embed(pixels)
    assert ((vectors * full).sum(axis=1) >= 0.99).all()
    np.testing.assert_array_equal(EfficientNetLite0(threads=2).embed(pixels), vectors)
