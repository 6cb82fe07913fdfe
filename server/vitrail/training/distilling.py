"""Distillation: a smaller model learns to give the vectors of a larger one."""

import torch

from vitrail.training.cores import Cores

WEIGHT = 10.0
"""Beside the loss over labels, which is some ten times a difference of cosines."""


class Objective(torch.nn.Module):
    """What is learned: to tell labels apart and, where there is a teacher, to see as it does."""

    def __init__(self, labels: torch.nn.Module, teacher: "Teacher | None" = None) -> None:
        super().__init__()
        self.labels, self.teacher = labels, teacher

    def forward(self, vectors: torch.Tensor, targets: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The loss of vectors [n, d], of photos of classes [n] and pixels uint8 [n, side, side, 3]."""
        loss: torch.Tensor = self.labels(vectors, targets)
        return loss if self.teacher is None else loss + self.teacher(vectors, pixels)


class Teacher(torch.nn.Module):
    """1 - cosine between a student's vectors and the teacher's of the same pixels, by `WEIGHT`.

    Where dimensions differ, a linear map, learned with the student and left out at the end, brings its vectors to the
    teacher's. The teacher itself is none of this module's state.
    """

    def __init__(self, teacher: Cores, side: int, dimension: int, device: str) -> None:
        """Take a teacher.

        Args:
            teacher: What it computes with; learns nothing.
            side: Of the pictures that it sees.
            dimension: Of the student's vectors.
            device: Where both are.
        """
        super().__init__()
        self._teacher, self._side = teacher, side
        own = self._vectors(torch.zeros((1, side, side, 3), dtype=torch.uint8, device=device)).shape[1]
        self.map = torch.nn.Identity() if own == dimension else torch.nn.Linear(dimension, own, bias=False)
        self.to(device)

    def forward(self, vectors: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The loss of a student's vectors [n, d] of pixels uint8 [n, side, side, 3]."""
        found: torch.Tensor = self.map(vectors)
        cosines = torch.nn.functional.cosine_similarity(found, self._vectors(pixels))
        return WEIGHT * (1 - cosines).mean()

    def _vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.shape[1] != self._side:
            images = pixels.permute(0, 3, 1, 2).float()
            size = (self._side, self._side)
            images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
            pixels = images.permute(0, 2, 3, 1)
        return torch.cat(list(self._teacher.forward(pixels)))
