"""Embedders in a file of their own: safetensors, with the recipe in its header. No code, no pickle is ever loaded.

The backbone is an architecture of timm or torchvision; its tensors stand under `backbone.`, those of a projection,
where there is one, as `projection.mean` and `projection.matrix`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitrail.server.embedders.hub import Backbone, NoSuchEmbedder, timm_model, torchvision_model
from vitrail.server.embedders.network import Precision, Projection
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Pooling
from vitrail.server.embedders.torch_embedder import TorchEmbedder

if TYPE_CHECKING:
    import torch

KEY, CARD, BACKBONE = "vitrail", "card", "backbone."
MEAN, MATRIX = "projection.mean", "projection.matrix"
MAX_HEADER = 1 << 24


class Header(BaseModel):
    """What the file says beside its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: str = Field(pattern=r"^(torchvision/)?[a-zA-Z0-9_.]{1,128}$")
    """In timm, or where it says so in torchvision."""
    preprocessing: Preprocessing
    pooling: Pooling = "native"
    normalise: bool = True


class Exported(NamedTuple):
    """What a file holds."""

    header: Header
    backbone: Backbone
    projection: Projection | None = None


def read(path: Path) -> Exported:
    """Read a file.

    Raises:
        NoSuchEmbedder: There is none, it cannot be read, or its tensors are not those of its architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        header = _header(path)
        backbone = _untrained(header)
        tensors = load_file(path)
        projection = None
        if MATRIX in tensors:
            mean, matrix = (tensors.pop(key).float().numpy() for key in (MEAN, MATRIX))
            projection = Projection(mean, matrix)
        backbone.model.load_state_dict({key.removeprefix(BACKBONE): tensor for key, tensor in tensors.items()})
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise NoSuchEmbedder(f"cannot load {path}: {error}") from error
    return Exported(header, replace(backbone, preprocessing=header.preprocessing), projection)


def load(name: str, path: Path, *, threads: int, precision: Precision = "auto") -> TorchEmbedder:
    """Load an embedder from a file.

    Raises:
        NoSuchEmbedder: As `read`.
    """
    header, backbone, projection = read(path)
    return TorchEmbedder(
        name,
        backbone,
        pooling=header.pooling,
        projection=projection,
        normalise=header.normalise,
        threads=threads,
        precision=precision,
    )


def save(
    path: Path,
    header: Header,
    backbone: Backbone,
    projection: Projection | None = None,
    *,
    half: bool = False,
    card: str = "",
) -> None:
    """Write an embedder to a file.

    Args:
        path: What is there is replaced.
        header: The recipe.
        backbone: The model.
        projection: Of its features, if any.
        half: Whether matrices and kernels are written in fp16. What has one axis is small, and stays as it is.
        card: How it was made, as JSON; it changes no vector.

    Raises:
        ValueError: A tensor has values that are too large for half precision.
    """
    import torch
    from safetensors.torch import save as as_bytes

    tensors = {f"{BACKBONE}{key}": tensor.contiguous() for key, tensor in backbone.model.state_dict().items()}
    if projection is not None:
        tensors |= {MEAN: torch.from_numpy(projection.mean), MATRIX: torch.from_numpy(projection.matrix)}
    if half:
        tensors = {key: _halved(key, tensor) for key, tensor in tensors.items()}
    metadata = {KEY: header.model_dump_json(), **({CARD: card} if card else {})}
    path.write_bytes(as_bytes(tensors, metadata))  # a full disk is an OSError so


def _untrained(header: Header) -> Backbone:
    family, _, name = header.architecture.rpartition("/")
    build = torchvision_model if family else timm_model
    return build(name, header.pooling, pretrained=False)


def _halved(key: str, tensor: "torch.Tensor") -> "torch.Tensor":
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not halved.isfinite().all():
        raise ValueError(f"{key} has values that are too large for half precision")
    return halved


def _header(path: Path) -> Header:
    """The recipe in a file's header: eight bytes that give its length, and JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError("not a safetensors file")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    if KEY not in metadata:
        raise ValueError(f"its header says nothing under {KEY!r}: not an embedder that was exported here")
    try:
        return Header.model_validate_json(metadata[KEY])
    except ValidationError as error:
        raise ValueError(f"its recipe cannot be used: {error}") from error


def fit_projection(
    features: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", dimension: int, *, whiten: bool
) -> Projection:
    """The principal components of features [n, c], most important first; whitened, each is of variance 1.

    Raises:
        ValueError: There are fewer features than dimensions.
    """
    if not 1 <= dimension <= min(features.shape):
        raise ValueError(f"{len(features):,} features of {features.shape[1]:,} give no {dimension:,} dimensions")
    mean = features.mean(axis=0)
    _, scales, directions = np.linalg.svd((features - mean).astype(np.float64), full_matrices=False)
    matrix = directions[:dimension].T
    if whiten:
        matrix = matrix * (np.sqrt(len(features) - 1) / np.maximum(scales[:dimension], 1e-12))
    return Projection(mean.astype(np.float32), np.ascontiguousarray(matrix, np.float32))
