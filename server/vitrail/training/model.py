"""A model while it is fine-tuned: what an exported embedder computes, in one piece, with some of it frozen."""

from typing import Any, Self

import numpy as np
import torch
from timm.models import group_parameters
from torch.nn.modules.batchnorm import _BatchNorm

from vitrail.client import InvalidArgument
from vitrail.server.embedders.exported import Exported
from vitrail.server.embedders.network import Projection, pooled


class Model(torch.nn.Module):
    """From pixels uint8 [n, side, side, 3] to unit vectors float32 [n, d]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, parts: Exported, freeze: int | None = 0) -> None:
        """Take an embedder apart.

        Args:
            parts: The embedder; its backbone is trained in place.
            freeze: Stages that stay as they are, from the first on; the first half of them for None.

        Raises:
            InvalidArgument: The backbone has no more stages than that.
        """
        super().__init__()
        self._parts = parts
        self.backbone = parts.backbone.model.to(memory_format=torch.channels_last)
        recipe = parts.header.preprocessing
        self.register_buffer("mean", torch.tensor(recipe.mean), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std), persistent=False)
        self.projection = None
        if parts.projection:
            self.projection = torch.nn.Linear(*parts.projection.matrix.shape)
            with torch.no_grad():
                matrix, mean = (torch.from_numpy(each) for each in (parts.projection.matrix, parts.projection.mean))
                self.projection.weight.copy_(matrix.T)
                self.projection.bias.copy_(-mean @ matrix)
        self._freeze(freeze)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.float().sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)
        backbone = self._parts.backbone
        vectors = pooled(self.backbone(images).float(), self._parts.header.pooling, backbone.prefix_tokens)
        if self.projection is not None:
            vectors = self.projection(vectors).float()
        return torch.nn.functional.normalize(vectors)

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays as it serves, and so do the statistics of all norms.

        Those of small batches are noise, which a few hundred photos never mend: with 499, the mAP of the default model
        fell from .60 to .55, and without rose to .78. Musgrave, Belongie and Lim (A Metric Learning Reality Check,
        2020) freeze them, too.
        """
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def exported(self) -> Exported:
        """The embedder as it is now, sharing the backbone."""
        projection = None
        if self.projection is not None:
            matrix = self.projection.weight.detach().cpu().numpy().T
            # (x - mean) @ matrix = x @ matrix + bias, of least squares where the matrix has no inverse.
            mean = np.linalg.lstsq(matrix.T, -self.projection.bias.detach().cpu().numpy(), rcond=None)[0]
            projection = Projection(mean.astype(np.float32), np.ascontiguousarray(matrix))
        return Exported(self._parts.header.model_copy(update={"normalise": True}), self._parts.backbone, projection)

    def _freeze(self, stages: int | None) -> None:
        groups = _stages(self.backbone)
        stages = len(groups) // 2 if stages is None else stages
        if stages >= len(groups):
            raise InvalidArgument(f"of {len(groups)} stages {stages} cannot be frozen", field="freeze")
        frozen = {name for stage in sorted(groups)[:stages] for name in groups[stage]}
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._fixed = [each for each in self.backbone.modules() if isinstance(each, _BatchNorm) or _is_frozen(each)]


def _stages(backbone: Any) -> dict[int, list[str]]:
    """The names of the parameters of each stage: as timm groups them; of torchvision each part is one."""
    groups: dict[int, list[str]] = {}
    if hasattr(backbone, "group_matcher"):
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    else:
        parts: dict[str, int] = {}
        for name, _ in backbone.named_parameters():
            part = ".".join(name.split(".")[: 2 if name.startswith("features.") else 1])
            groups.setdefault(parts.setdefault(part, len(parts)), []).append(name)
    return groups


def _is_frozen(module: torch.nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
