"""The losses, by pytorch-metric-learning: from vectors and classes to what is to be made smaller."""

from collections.abc import Callable

import torch
from pytorch_metric_learning import losses

from vitrail.training.settings import Loss

OF_PAIRS: frozenset[Loss] = frozenset({"triplet", "contrastive"})
"""Those that compare photos of a batch with each other: a batch must have several of a class."""


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
