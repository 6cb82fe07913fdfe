"""An embedder with a projection that was fitted to photos, as a file that `file:` serves (see `exported`)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders import exported
from vitrail.server.embedders.efficientnet import EfficientNetLite0, pretrained
from vitrail.server.embedders.hub import Backbone, NoSuchEmbedder, timm_model
from vitrail.server.embedders.names import options_of
from vitrail.server.embedders.network import Floats, Pixels
from vitrail.server.embedders.torch_embedder import TorchEmbedder


class Projecting:
    """The features of an embedder, and a projection of them."""

    def __init__(self, name: str, *, threads: int) -> None:
        """Load the model.

        Raises:
            NoSuchEmbedder: There is none, it cannot be had here, or a file cannot hold it.
        """
        self._header, self._backbone = _exportable(name)
        self._features = TorchEmbedder(
            name,
            self._backbone,
            pooling=self._header.pooling,
            preprocessing=self._header.preprocessing,
            normalise=False,
            threads=threads,
            precision="full",
        )
        self._workers = self._features.copies()
        self._threads = ThreadPoolExecutor(len(self._workers), "embed")
        self.dimension = self._features.dimension
        """Components of a feature."""

    def pixels(self, data: bytes) -> Pixels:
        """A photo as the model sees it, uint8 [side, side, 3].

        Raises:
            InvalidArgument: It cannot be decoded.
        """
        recipe = self._header.preprocessing
        return recipe.apply(decode(data, ImageLimits(), recipe.target, background=recipe.background))

    def features(self, pixels: Sequence[Pixels]) -> Floats:
        """Features float32 [n, dimension] of n photos, at least one."""
        parts = np.array_split(np.stack(pixels), min(len(self._workers), len(pixels)))
        return np.concatenate(list(self._threads.map(lambda embed, part: embed(part), self._workers, parts)))

    def save(self, path: Path, features: Floats, dimension: int, *, whiten: bool) -> None:
        """Fit a projection to features [n, c] and write the embedder.

        Whitened vectors keep their length, so that their Euclidean distance is Mahalanobis'; others are of length 1.

        Raises:
            ValueError: There are fewer features than dimensions.
        """
        projection = exported.fit_projection(features, dimension, whiten=whiten)
        header = self._header.model_copy(update={"normalise": not whiten})
        exported.save(path, header, self._backbone, projection)


def _exportable(name: str) -> tuple[exported.Header, Backbone]:
    base, _, query = name.partition("?")
    options = options_of(name, query)
    family, _, architecture = base.partition("/")
    if base == EfficientNetLite0.name:
        architecture = "tf_efficientnet_lite0"
        backbone = timm_model(architecture, options.pooling, pretrained=False)
        backbone.model.load_state_dict(_without_classifier())
        own = EfficientNetLite0.own
    elif family == "timm":
        backbone = timm_model(architecture, options.pooling)
        own = backbone.preprocessing
    else:
        raise NoSuchEmbedder(f"{name}: only {EfficientNetLite0.name} and models of timm can be written to a file")
    header = exported.Header(architecture=architecture, preprocessing=options.apply(own), pooling=options.pooling)
    return header, backbone


def _without_classifier() -> dict[str, object]:
    return {key: each for key, each in pretrained().state_dict().items() if not key.startswith("classifier.")}
