"""Models of timm, torchvision and open_clip, by their names there, with the weights that these libraries get.

A `Backbone` is what the three have in common: a model, how images are fed to it, and what comes out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Pooling

if TYPE_CHECKING:
    import torch

TORCHVISION_HEADS = ("fc", "classifier", "heads", "head")


class NoSuchEmbedder(ValueError):
    """No model has this name, its weights cannot be had, or it does not do what it is asked for."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model with its weights, and how images are fed to it."""

    name: str
    model: "torch.nn.Module"
    preprocessing: Preprocessing
    forward: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    """One of the model's methods, where it is not called itself."""
    prefix_tokens: int = 0
    embed_texts: "Callable[[Sequence[str]], torch.Tensor] | None" = None
    """Texts to vectors of the same space, [n, d], where the model has such."""


def timm_model(name: str, pooling: Pooling, *, pretrained: bool = True) -> Backbone:
    """A model of timm, such as "resnet50.a1_in1k", without its classifier.

    Args:
        name: As timm has it.
        pooling: What is to come out: pooled by the model, or what can be pooled.
        pretrained: Whether to get its weights.

    Raises:
        NoSuchEmbedder: There is no such model, or its weights cannot be had.
    """
    import timm
    from timm.data.config import resolve_data_config

    unpooled: dict[str, Any] = {} if pooling == "native" else {"global_pool": ""}
    model = _got(f"timm/{name}", lambda: timm.create_model(name, pretrained=pretrained, num_classes=0, **unpooled))
    config = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    side = config["input_size"][1]
    fit = {"center": "crop", "squash": "stretch", "border": "pad"}[config["crop_mode"]]
    preprocessing = _preprocessing(
        resize=int(side / config["crop_pct"]) if fit == "crop" else side,
        crop=side,
        fit=fit,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    return Backbone(f"timm/{name}", model, preprocessing, prefix_tokens=getattr(model, "num_prefix_tokens", 0))


def torchvision_model(name: str, pooling: Pooling, *, pretrained: bool = True) -> Backbone:
    """A model of torchvision, such as "resnet50" or "resnet50/IMAGENET1K_V1", without its classifier.

    Args:
        name: As torchvision has it, perhaps with the name of the weights, whose preprocessing is taken.
        pooling: The model's own.
        pretrained: Whether to get the weights.

    Raises:
        NoSuchEmbedder: There is no such model, or its weights cannot be had.
    """
    import torch
    from torchvision import models

    if pooling != "native":
        raise NoSuchEmbedder(f"torchvision/{name}: pooling is the model's own")
    architecture, _, tag = name.partition("/")

    def build() -> tuple[torch.nn.Module, Any]:
        weights = models.get_model_weights(architecture)
        chosen = weights[tag] if tag else weights.DEFAULT
        return models.get_model(architecture, weights=chosen if pretrained else None), chosen.transforms()

    model, transforms = _got(f"torchvision/{name}", build)
    head = next((each for each in TORCHVISION_HEADS if hasattr(model, each)), None)
    if head is None:
        raise NoSuchEmbedder(f"torchvision/{name}: has no classifier that could be left out")
    setattr(model, head, torch.nn.Identity())
    preprocessing = _preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=transforms.mean,
        std=transforms.std,
    )
    return Backbone(f"torchvision/{name}", model, preprocessing)


def open_clip_model(name: str, pooling: Pooling) -> Backbone:
    """A model of open_clip with its weights, "ViT-B-32/laion2b_s34b_b79k": images and texts in one space.

    Raises:
        NoSuchEmbedder: open_clip is not installed, there is no such model, or its weights cannot be had.
    """
    if pooling != "native":
        raise NoSuchEmbedder(f"open_clip/{name}: pooling is the model's own")
    try:
        import open_clip
    except ImportError as error:
        raise NoSuchEmbedder(f"open_clip/{name} needs more packages: pip install 'vitrail[open-clip]'") from error
    architecture, _, tag = name.partition("/")
    if not tag:
        raise NoSuchEmbedder(f"open_clip/{name}: name the weights, too, as in open_clip/ViT-B-32/laion2b_s34b_b79k")
    model = _got(
        f"open_clip/{name}", lambda: open_clip.create_model(architecture, pretrained=tag, require_pretrained=True)
    )
    tokenizer = open_clip.get_tokenizer(architecture)
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    side = size if isinstance(size, int) else size[0]
    fit = {"shortest": "crop", "longest": "pad", "squash": "stretch"}[config["resize_mode"]]
    preprocessing = _preprocessing(
        resize=side,
        crop=side,
        fit=fit,
        interpolation=config["interpolation"],
        background=(config["fill_color"],) * 3 if fit == "pad" else (255, 255, 255),
        mean=config["mean"],
        std=config["std"],
    )

    def embed_texts(texts: Sequence[str]) -> "torch.Tensor":
        found: torch.Tensor = model.encode_text(tokenizer(list(texts)).to(next(model.parameters()).device))
        return found

    return Backbone(f"open_clip/{name}", model, preprocessing, model.encode_image, embed_texts=embed_texts)


def _preprocessing(*, mean: Sequence[float], std: Sequence[float], **fields: Any) -> Preprocessing:
    """Of the libraries' figures, whose pixels are from 0 to 1."""
    return Preprocessing.model_validate(
        {**fields, "mean": [255 * value for value in mean], "std": [255 * value for value in std]}
    )


def _got(name: str, build: Callable[[], Any]) -> Any:
    """What a library builds; it may fail in many ways where there is no such model, or no network."""
    try:
        return build()
    except Exception as error:
        raise NoSuchEmbedder(f"cannot get {name}: {error or type(error).__name__}") from error
