"""Batch normalisation folded into convolutions: the same vectors, or the model is left as it is."""

import pytest
import timm
import torch
from torch import nn

from vitrail.server.embedders.folding import folded_if_same


def with_statistics(model: nn.Module) -> nn.Module:
    """Norms as after training, which are not the identity."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data = torch.rand(tensor.shape, generator=random) + 0.5
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Crossed(nn.Module):
    """Its norm is of what came in, though it is the child after the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(self.norm(images)).mean((2, 3))
        return found


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "mobilenetv3_small_050", "repvgg_a0"])
def test_the_same_vectors_with_fewer_norms(name: str) -> None:
    model = with_statistics(timm.create_model(name, num_classes=0))
    found = folded_if_same(model, 64)
    assert norms(found) < norms(model) / 2
    images = torch.rand((2, 3, 64, 64))
    with torch.inference_mode():
        wanted = model(images)
        torch.testing.assert_close(found(images), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_what_would_become_another_model_is_left() -> None:
    model = with_statistics(Crossed())
    assert folded_if_same(model, 8) is model
