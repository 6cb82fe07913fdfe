"""The losses, by pytorch-metric-learning: from vectors and classes to what is to be made smaller."""

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from pytorch_metric_learning import losses
from sklearn.covariance import ledoit_wolf

from vitrail.training.settings import Loss

OF_PAIRS: frozenset[Loss] = frozenset({"triplet", "contrastive"})
"""Those that compare photos of a batch with each other: a batch must have several of a class."""

LEAST_VARIANCE = 1e-3
"""Of a direction, beside the mean of all."""


def make(name: Loss, classes: int, dimension: int) -> torch.nn.Module:
    """A loss of vectors [n, dimension] and the numbers of their classes [n]; its parameters are learnt with the model.

    Cross-entropy is that of cosines to one vector a class (Zhai and Wu, Classification is a Strong Baseline for Deep
    Metric Learning, 2018), since cosines are what is searched by.
    """
    makers: dict[Loss, Callable[[], torch.nn.Module]] = {
        "cross-entropy": lambda: losses.NormalizedSoftmaxLoss(classes, dimension),
        "arcface": lambda: losses.ArcFaceLoss(classes, dimension),
        "proxy-anchor": lambda: losses.ProxyAnchorLoss(classes, dimension),
        "triplet": losses.TripletMarginLoss,
        "contrastive": losses.ContrastiveLoss,
    }
    return makers[name]()


def begin(loss: torch.nn.Module, vectors: npt.NDArray[np.float32], numbers: npt.NDArray[np.int64]) -> None:
    """Let a loss that learns a vector for each class begin with those that tell the classes apart as the model is now.

    They are the directions of linear discriminant analysis, (mean of the class - mean of all classes) by the inverse of
    the covariance within classes, shrunk as Ledoit and Wolf (2004) do. From random ones, the first steps only undo what
    the backbone knows.

    Args:
        loss: One of `make`, but none of pairs, which learn nothing.
        vectors: Of photos, float32 [n, d], n at least 1.
        numbers: Of their classes, [n]; classes without a photo keep a random vector.
    """
    learnt = loss.proxies if isinstance(loss, losses.ProxyAnchorLoss) else cast("torch.Tensor", loss.W).T
    present, places = np.unique(numbers, return_inverse=True)
    means = np.stack([vectors[places == place].mean(0) for place in range(len(present))])
    covariance, _ = ledoit_wolf(vectors - means[places], assume_centered=True)
    # Too few photos, or alike, leave directions without any variance.
    covariance += np.eye(len(covariance)) * (LEAST_VARIANCE * np.trace(covariance) / len(covariance) or 1.0)
    directions = np.linalg.solve(covariance, (means - means.mean(0)).T).T
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    with torch.no_grad():
        learnt[torch.from_numpy(present)] = torch.from_numpy(directions).to(learnt)
