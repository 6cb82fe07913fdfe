"""Forward and backward on all cores of a CPU: each has a part of the batch, and the loss sees all of it.

Threads that share one layer wait for each other between any two, which takes longer than the layers of a small model
(see `Network`). So each thread has modules of its own over the same weights.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from vitrail.training.model import Model

LEAST_PART = 8
"""Photos that are worth a thread; not measured."""


class Cores:
    """A model that is trained by some threads; on a GPU by one."""

    def __init__(self, model: Model, batch: int, threads: int, half: torch.dtype | None) -> None:
        """Share the weights of a model.

        Args:
            model: Where it is to be trained.
            batch: Photos a step.
            threads: Of all cores.
            half: What forward passes compute in beside float32, if anything.
        """
        self._device = model.mean.device.type
        self._half = half
        count = min(threads, max(1, batch // LEAST_PART)) if self._device == "cpu" else 1
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._models = [model, *(copy.deepcopy(model, dict(shared)) for _ in range(count - 1))]
        self._learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads // count,))

    def train(self) -> None:
        """Begin to learn, from what the model is now."""
        for model in self._models:
            model.train()

    def forward(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
        """Vectors of uint8 [n, side, side, 3], in parts."""
        return list(self._pool.map(self._forward, self._models, pixels.chunk(len(self._models))))

    def backward(self, parts: Sequence[torch.Tensor], gradient: torch.Tensor) -> None:
        """Set the gradients of the weights, from that of the vectors [n, d]."""
        gradients = self._pool.map(self._backward, parts, torch.split(gradient, [len(part) for part in parts]))
        for parameter, *each in zip(self._learnt, *gradients, strict=True):
            parameter.grad = torch.stack(each).sum(0) if len(each) > 1 else each[0]

    def _forward(self, model: Model, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device, self._half or torch.float32, enabled=self._half is not None):
            vectors: torch.Tensor = model(pixels)
        return vectors

    def _backward(self, part: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(part, self._learnt, gradient, allow_unused=True, materialize_grads=True)
