"""The same bytes give the same vector: after any upgrade of a library, alone, in any batch, and after a restart."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.server import golden_vectors
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Floats, Pixels

# Of a component: a ninth of what a bilinear filter changes in the photo that it changes least (0.013), and less than
# one grey level more or less in a tenth of all pixels does to most. The same libraries stay within the other.
ACROSS_VERSIONS = 1.5e-3
# As the embedder's class states: other threads and other batches only change the order of sums.
SAME_VERSION = 1e-6
NAMES = [path.name for path in golden_vectors.files()]


@pytest.fixture(scope="module")
def embedder() -> EfficientNetLite0:
    return EfficientNetLite0(threads=2, precision="full")


@pytest.fixture(scope="module")
def pixels(embedder: EfficientNetLite0) -> Pixels:
    return golden_vectors.pixels(embedder)


@pytest.fixture(scope="module")
def alone(embedder: EfficientNetLite0, pixels: Pixels) -> Floats:
    return np.concatenate([embedder.embed(pixels[i : i + 1]) for i in range(len(pixels))])


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_vectors_are_those_of_the_golden_file(alone: Floats, index: int) -> None:
    """Decoding, colours, orientation, background, scaling and the model do what they did when the space was pinned."""
    golden = np.load(golden_vectors.VECTORS)
    assert golden.shape == alone.shape
    assert np.abs(alone[index] - golden[index]).max() <= ACROSS_VERSIONS


def test_company_changes_nothing(embedder: EfficientNetLite0, pixels: Pixels, alone: Floats) -> None:
    """Whatever is embedded beside a photo, in whatever order, its vector is the one it has alone."""
    order = np.random.default_rng(5).permutation(len(pixels))
    for size in (2, 5, len(pixels)):
        parts = [embedder.embed(pixels[order[i : i + size]]) for i in range(0, len(pixels), size)]
        assert np.abs(np.concatenate(parts) - alone[order]).max() <= SAME_VERSION


def test_a_restart_changes_nothing(alone: Floats, tmp_path: Path) -> None:
    """Another process, with another number of threads, gives the same vectors of the same files."""
    path = tmp_path / "vectors.npy"
    program = "import sys, numpy; from tests.server.golden_vectors import vectors; numpy.save(sys.argv[1], vectors())"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=120)
    assert np.abs(np.load(path) - alone).max() <= SAME_VERSION
