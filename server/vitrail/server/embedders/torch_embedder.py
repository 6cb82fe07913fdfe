"""An embedder that torch runs: a backbone, its pooling, perhaps a projection, and the recipe that says which space."""

from collections.abc import Sequence

import numpy as np

from vitrail.server.embedders.folding import folded_if_same
from vitrail.server.embedders.hub import Backbone, NoSuchEmbedder
from vitrail.server.embedders.network import Floats, Network, Pixels, Precision, Projection, weights_digest
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Pooling, Recipe
from vitrail.v1.search_pb2 import TextMethod


class TorchEmbedder:
    """A model, loaded."""

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        *,
        pooling: Pooling = "native",
        preprocessing: Preprocessing | None = None,
        projection: Projection | None = None,
        normalise: bool = True,
        threads: int,
        precision: Precision = "auto",
    ) -> None:
        """Move it to the device; without `preprocessing` it is the backbone's own.

        Raises:
            NoSuchEmbedder: The model takes no images of that side.
        """
        self.name = name
        self.preprocessing = preprocessing or backbone.preprocessing
        self.normalised = normalise
        self.recipe = Recipe(
            backbone=backbone.name,
            weights=weights_digest(backbone.model),
            preprocessing=self.preprocessing,
            pooling=pooling,
            projection=projection.digest if projection else "",
            normalise=normalise,
        )
        self.space = self.recipe.space(name)
        self._texts = backbone.embed_texts
        side = self.preprocessing.crop
        try:
            self.network = Network(
                backbone.model if backbone.forward else folded_if_same(backbone.model, side),
                self.preprocessing,
                forward=backbone.forward,
                pooling=pooling,
                prefix_tokens=backbone.prefix_tokens,
                projection=projection,
                normalise=normalise,
                threads=threads,
                precision=precision,
                space=self.space,
            )
            self.dimension = self.embed(np.zeros((1, side, side, 3), np.uint8)).shape[1]
        except AssertionError as error:  # of timm's transformers
            raise NoSuchEmbedder(f"{name}: {error}") from error

    def embed(self, pixels: Pixels) -> Floats:
        """Embed uint8 [n, side, side, 3] as float32 [n, dimension]."""
        return self.network(pixels)

    def copies(self) -> Sequence[Network]:
        """One on each device."""
        return self.network.copies()


class TorchTextEmbedder(TorchEmbedder):
    """One whose model knows texts, too."""

    text_method = TextMethod.TEXT_METHOD_SHARED_SPACE

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as unit vectors float32 [n, dimension]."""
        import torch

        assert self._texts is not None
        with torch.inference_mode():
            vectors: torch.Tensor = torch.nn.functional.normalize(self._texts(texts).float())
            return vectors.cpu().numpy()
