"""Embedders by name.

| name | what it is |
|---|---|
| efficientnet-lite0 | the default: its weights come with the package |
| timm/MODEL | a model of timm, without its classifier |
| torchvision/MODEL[/WEIGHTS] | a model of torchvision, without its classifier |
| open_clip/MODEL/WEIGHTS | images and texts in one space |
| file:PATH | a safetensors file that Vitrail wrote (see `exported`) |
| onnx:PATH | an ONNX file |
| anything else | what a package offers as an entry point of the group `vitrail.embedders` |

After a `?` the name may say what is to be done otherwise, as in `timm/resnet50.a1_in1k?pooling=gem&fit=pad`. The whole
name is the embedder's name: another way to do it is another embedder, in another space.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitrail.server.embedders.base import Embedder
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.hub import NoSuchEmbedder, open_clip_model, timm_model, torchvision_model
from vitrail.server.embedders.network import Precision
from vitrail.server.embedders.preprocessing import MAX_SIDE, Preprocessing
from vitrail.server.embedders.recipe import Pooling
from vitrail.server.embedders.torch_embedder import TorchEmbedder, TorchTextEmbedder

GROUP = "vitrail.embedders"


class Options(BaseModel):
    """What a name may say after its question mark."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pooling: Pooling = "native"
    side: int | None = Field(default=None, ge=32, le=MAX_SIDE)
    """Of the square that the model sees: a smaller one takes less time, and less is seen."""
    fit: Literal["crop", "pad", "stretch"] | None = None
    denoise: Literal["none", "median"] | None = None
    contrast: Literal["none", "stretch"] | None = None

    def apply(self, preprocessing: Preprocessing) -> Preprocessing:
        """What differs from a model's own preprocessing."""
        changed = self.model_dump(include={"fit", "denoise", "contrast"}, exclude_none=True)
        crop = changed["crop"] = self.side or preprocessing.crop
        fit = self.fit or preprocessing.fit
        changed["resize"] = round(preprocessing.resize * crop / preprocessing.crop) if fit == "crop" else crop
        return Preprocessing.model_validate({**preprocessing.model_dump(), **changed})


def make(name: str, *, threads: int, precision: Precision = "auto") -> Embedder:
    """The embedder of a name, loaded; but for the default one, which loads its model with the first image.

    Raises:
        NoSuchEmbedder: There is none, or it cannot be had here; says what to do.
    """
    base, _, query = name.partition("?")
    options = options_of(name, query)
    family, slash, model = base.partition("/")
    if base == EfficientNetLite0.name:
        if options.pooling != "native":
            raise NoSuchEmbedder(f"{name}: pooling is the model's own")
        return EfficientNetLite0(threads, precision, name=name, preprocessing=options.apply(EfficientNetLite0.own))
    if base.startswith(("file:", "onnx:")):
        return _from_file(name, base, options, threads, precision)
    if slash and family in ("timm", "torchvision", "open_clip"):
        build = {"timm": timm_model, "torchvision": torchvision_model, "open_clip": open_clip_model}[family]
        backbone = build(model, options.pooling)
        preprocessing = options.apply(backbone.preprocessing)
        kind = TorchTextEmbedder if backbone.embed_texts else TorchEmbedder
        return kind(
            name,
            backbone,
            pooling=options.pooling,
            preprocessing=preprocessing,
            threads=threads,
            precision=precision,
        )
    return _from_entry_point(name, base, threads)


def options_of(name: str, query: str) -> Options:
    """What stands after the question mark of a name.

    Raises:
        NoSuchEmbedder: It is not understood.
    """
    try:
        return Options.model_validate(dict(parse_qsl(query, strict_parsing=bool(query))))
    except ValidationError as error:
        first = error.errors()[0]
        raise NoSuchEmbedder(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise NoSuchEmbedder(f"{name}: {error}") from error


def _from_file(name: str, base: str, options: Options, threads: int, precision: Precision) -> Embedder:
    kind, _, path = base.partition(":")
    if options != Options():
        raise NoSuchEmbedder(f"{name}: what a file says of itself is not changed by its name")
    if kind == "onnx":
        from vitrail.server.embedders.onnx import OnnxEmbedder

        return OnnxEmbedder(name, Path(path), threads=threads)
    from vitrail.server.embedders.exported import load

    return load(name, Path(path), threads=threads, precision=precision)


def _from_entry_point(name: str, base: str, threads: int) -> Embedder:
    offered = {each.name: each for each in entry_points(group=GROUP)}
    if base not in offered:
        raise NoSuchEmbedder(
            f"there is no embedder {name!r}: give {EfficientNetLite0.name}, timm/…, torchvision/…, open_clip/…, "
            f"file:…, onnx:… or an entry point of {GROUP}"
        )
    embedder: Embedder = offered[base].load()(threads=threads)
    return embedder
