"""Distillation: what a student is told to learn, and that it can."""

from typing import cast

import numpy as np
import torch

from vitrail.server.embedders import exported
from vitrail.server.embedders.exported import Exported
from vitrail.server.embedders.hub import timm_model
from vitrail.server.embedders.network import CPU
from vitrail.training.cores import Cores
from vitrail.training.distilling import WEIGHT, Objective, Teacher
from vitrail.training.model import Model


def tiny(seed: int, side: int, dimension: int | None = None) -> Exported:
    torch.manual_seed(seed)
    backbone = timm_model("test_resnet", "native", pretrained=False)
    recipe = backbone.preprocessing.model_copy(update={"resize": side, "crop": side})
    header = exported.Header(architecture="test_resnet", preprocessing=recipe)
    count = cast("int", backbone.model.num_features)
    features = np.random.default_rng(seed).normal(size=(200, count)).astype(np.float32)
    projection = exported.fit_projection(features, dimension, whiten=False) if dimension else None
    return Exported(header, backbone, projection)


def teaching(parts: Exported, dimension: int) -> Teacher:
    """With two threads, for students of a dimension."""
    model = Model(parts).eval().requires_grad_(False)
    return Teacher(Cores(model, 16, 2, None), parts.header.preprocessing.crop, dimension, CPU)


def some_pixels(side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (8, side, side, 3), dtype=torch.uint8, generator=generator)


def test_a_student_can_learn_its_teachers_vectors() -> None:
    """Of another dimension and another side, too; the teacher stays what it is, and no checkpoint holds it."""
    parts, pixels = tiny(2, 48, dimension=6), some_pixels(32)
    before = {name: tensor.clone() for name, tensor in parts.backbone.model.state_dict().items()}
    teacher = teaching(parts, 4)
    assert list(teacher.state_dict()) == ["map.weight"]
    vectors = torch.nn.Parameter(torch.randn((8, 4), generator=torch.Generator().manual_seed(1)))
    optimizer = torch.optim.Adam([vectors, *teacher.parameters()], 0.1)
    losses = []
    for _ in range(30):
        loss = teacher(vectors, pixels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 4
    for name, tensor in parts.backbone.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_it_is_told() -> None:
    """1 - cosine to the teacher's own vectors, beside what labels say; the teacher itself has nothing to learn."""
    parts, pixels = tiny(2, 32), some_pixels(32)
    with torch.no_grad():
        right = Model(parts).eval()(pixels)
    teacher = teaching(parts, right.shape[1])
    assert not list(teacher.parameters())
    torch.testing.assert_close(teacher(right, pixels), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(teacher(-right, pixels), torch.tensor(2 * WEIGHT))
    targets = torch.zeros(len(pixels), dtype=torch.int64)
    labels = torch.nn.CrossEntropyLoss()
    alone = Objective(labels)(right, targets, pixels)
    torch.testing.assert_close(alone, labels(right, targets))
    torch.testing.assert_close(
        Objective(labels, teacher)(-right, targets, pixels), labels(-right, targets) + 2 * WEIGHT
    )
