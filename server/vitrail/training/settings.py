"""What a training run is made of, beside its photos: the same settings and photos make the same model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vitrail.server.embedders.efficientnet import EfficientNetLite0

Loss = Literal["cross-entropy", "arcface", "proxy-anchor", "triplet", "contrastive"]
Optimizer = Literal["adamw", "sgd"]
Augmentation = Literal["none", "light", "strong"]
Precision = Literal["auto", "full", "half"]


class Settings(BaseModel):
    """How a model is fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedder: str = EfficientNetLite0.name
    """Where it starts: the default embedder, `timm/…`, `torchvision/…`, or `file:…`."""
    teacher: str = ""
    """A larger embedder whose vectors it learns to give, too; "" where there is none."""
    loss: Loss = "proxy-anchor"
    optimizer: Optimizer = "adamw"
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of the backbone, at its highest."""
    head_rate: float = Field(default=1e-2, gt=0)
    """Of what the loss itself learns: classes or proxies."""
    weight_decay: float = Field(default=1e-4, ge=0)
    epochs: int = Field(default=6, ge=1)
    warm_up: float = Field(default=1.0, ge=0)
    """Epochs in which the rates rise to their highest; after that they fall as a cosine does."""
    batch: int = Field(default=32, ge=2)
    per_class: int = Field(default=4, ge=1)
    """Photos of one class that come into a batch together, where the loss compares photos with each other."""
    freeze: int | None = Field(default=None, ge=0)
    """Stages of the backbone that stay as they are, from the first one on, statistics included; the first half of them
    if not given: what they know all photos share, and they take most of the time."""
    augmentation: Augmentation = "light"
    """"light" is crops, flips and colour; "strong" is RandAugment, too."""
    least_area: float = Field(default=0.5, gt=0, le=1)
    """The smallest share of a photo that a crop keeps."""
    precision: Precision = "auto"
    """"half" is bf16, or fp16 on a GPU without it; "auto" is half on a GPU."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better mAP on the validation split, after which it stops."""
    seed: int = Field(default=0, ge=0)
