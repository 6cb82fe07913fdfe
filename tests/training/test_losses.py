"""Losses that learn a vector for each class: where they begin."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from vitrail.training import losses
from vitrail.training.settings import Loss

CLASSES, DIMENSION = 4, 6


def learnt(loss: torch.nn.Module) -> npt.NDArray[np.float32]:
    """Its vectors, [classes, dimension]."""
    (parameter,) = loss.parameters()
    found: npt.NDArray[np.float32] = parameter.detach().numpy()
    return found if len(found) == CLASSES else found.T


@pytest.mark.parametrize("name", ["cross-entropy", "arcface", "proxy-anchor"])
def test_begin_as_discriminants(name: Loss) -> None:
    """They point where scikit-learn's discriminant analysis does; a class that has no photo keeps what it had."""
    random = np.random.default_rng(3)
    numbers = np.repeat([0, 1, 3], 200)
    means = random.normal(size=(CLASSES, DIMENSION))
    vectors = (means[numbers] + random.normal(size=(600, DIMENSION)) * np.arange(1, 7)).astype(np.float32)
    loss = losses.make(name, CLASSES, DIMENSION)
    before = learnt(loss).copy()
    losses.begin(loss, vectors, numbers)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(vectors, numbers).coef_
    expected -= expected.mean(0)
    cosines = (learnt(loss)[[0, 1, 3]] * expected).sum(1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99  # its covariance is not shrunk
    np.testing.assert_array_equal(learnt(loss)[2], before[2])


@pytest.mark.parametrize(
    "vectors",
    [np.eye(DIMENSION)[:3], np.eye(DIMENSION)[[0, 0, 0]], np.eye(DIMENSION)[[0, 1, 2, 3]]],
    ids=["one-photo-each", "all-the-same", "one-pair"],
)
def test_begin_with_hardly_any_photos(vectors: npt.NDArray[np.float32]) -> None:
    loss = losses.make("proxy-anchor", CLASSES, DIMENSION)
    losses.begin(loss, vectors.astype(np.float32), np.array([0, 1, 2, 2][: len(vectors)]))
    assert np.isfinite(learnt(loss)).all()
