"""How a run went: a picture, and what TensorBoard reads."""

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure


class Epoch(NamedTuple):
    """What an epoch came to; 0 is the model before it was trained."""

    epoch: int
    loss: float | None
    """Its mean; None before training, and where no photo of the epoch can be read."""
    rate: float
    """The backbone's learning rate at its end."""
    mean_average_precision: float
    """Of the validation split: each photo searches the others."""
    precision_at_10: float
    seconds: float
    """That training took, without validation."""
    photos: int


def picture(epochs: Sequence[Epoch]) -> bytes:
    """Curves of loss, learning rate and retrieval, as PNG."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    losses, rates, retrieval = figure.subplots(1, 3)
    numbers = [each.epoch for each in epochs]
    losses.plot(numbers, [math.nan if each.loss is None else each.loss for each in epochs], marker=".")
    rates.plot(numbers, [each.rate for each in epochs], marker=".")
    retrieval.plot(numbers, [each.mean_average_precision for each in epochs], marker=".", label="mAP")
    retrieval.plot(numbers, [each.precision_at_10 for each in epochs], marker=".", label="P@10")
    retrieval.legend()
    titles = ("loss", "learning rate of the backbone", "retrieval on the validation split")
    for axes, title in zip((losses, rates, retrieval), titles, strict=True):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()
