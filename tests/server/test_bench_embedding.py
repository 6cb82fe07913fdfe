"""What `make bench-embed` compares with, and its part for a GPU, which runs here on the CPU."""

import numpy as np
import pytest
import torch

from tests.bench import embed_gpu, tensors
from tests.bench.bare import Bare, like
from tests.bench.bulk import Shared
from tests.bench.report import Asked, Section, asked_section, markdown
from tests.bench.turns import in_turns
from tests.server.images import jpeg, picture
from vitrail.server.embedders.efficientnet import EfficientNetLite0


def test_the_bare_model_does_the_same_work() -> None:
    """Its features are those of the embedder but for their length."""
    embedder = EfficientNetLite0(threads=2, precision="full")
    pixels = embed_gpu.drawn(2, embedder.preprocessing.crop)
    bare = Bare("cpu", torch.float32)
    features = torch.nn.functional.normalize(bare(bare.images(pixels))).numpy()
    assert np.abs(features - embedder.embed(pixels)).max() < 1e-5


def test_pixels_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare model, the embedder and the pipeline embed all pixels, the last one by one through its queue."""
    monkeypatch.setattr(tensors, "BATCHES", (1, 2))
    monkeypatch.setattr(tensors, "SWEEPS", 1)
    embedder = EfficientNetLite0(threads=2)
    pixels = embed_gpu.drawn(4, embedder.preprocessing.crop)
    measured = tensors.measure(embedder, like(embedder), pixels, batch=2, rounds=1)
    assert measured.best.batch in (1, 2)
    assert len(measured.section.rows) == 4
    assert measured.ratio > 0


def test_works_take_turns() -> None:
    """Each is done once a round, and who is first changes."""
    done: list[str] = []

    def work(name: str, items: int) -> int:
        done.append(name)
        return items

    rates = in_turns({"a": lambda: work("a", 1), "b": lambda: work("b", 10)}, rounds=3)
    assert "".join(done) == "abbaab"
    assert [len(found) for found in rates.values()] == [3, 3]


def test_ratios_are_judged() -> None:
    """A ratio that is asked to be at most so much is missed above it, any other below."""
    asked = [Asked("a", 0.9, 0.9), Asked("b", 0.89, 0.9), Asked("c", 3.0, 3, at_most=True), Asked("d", 3.1, 3, True)]
    assert [row[-1] for row in asked_section(asked).rows] == ["met", "MISSED", "met", "MISSED"]


def test_tables_become_markdown() -> None:
    """Each has its title, its note, and as many cells in every line."""
    text = markdown("Heading", "command", [Section("some table", ("", "x"), [("a", "1")], "Note.")])
    assert text.startswith("# Heading\n\n`command` on ")
    assert text.endswith("## Some table\n\nNote.\n\n|  | x |\n|---|--:|\n| a | 1 |\n")


def test_searches_beside_bulk_work() -> None:
    """The p95 is of all rounds together; what is left of bulk work is compared round by round."""
    seconds = np.linspace(0.01, 0.02, 21)
    shared = Shared(seconds, 3 * seconds, np.array([100.0, 10.0, 50.0]), np.array([60.0, 7.0, 40.0]))
    assert np.isclose(shared.slower, 3)
    assert np.isclose(shared.left, 0.7)


# torchvision 0.29 warns that TorchCodec will decode instead: what is measured is named in its tables.
@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_the_part_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it does on a GPU runs on the CPU."""
    monkeypatch.setattr(embed_gpu, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(embed_gpu, "PROFILED", 1)
    embedder = EfficientNetLite0(threads=2)
    ratios, compared = embed_gpu.compare(embedder, "cpu", [1, 2], rounds=1)
    assert [*ratios] == [1, 2]
    assert [len(row) for row in compared.rows] == [len(compared.columns)] * 2
    profiled = embed_gpu.profile(embedder, "cpu")
    assert any("conv" in row[0] for row in profiled.rows)
    decoded = embed_gpu.decoding({"drawn": [jpeg(picture())] * 2}, "cpu", rounds=1)
    assert decoded.rows[0][0] == "drawn"
