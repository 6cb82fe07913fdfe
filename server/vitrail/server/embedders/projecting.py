"""An embedder with a projection that was fitted to photos, as a file that `file:` serves (see `exported`)."""

from pathlib import Path

import numpy as np

from vitrail.server.embedders import exported
from vitrail.server.embedders.exportable import exportable
from vitrail.server.embedders.network import Floats, Projection
from vitrail.server.embedders.torch_embedder import TorchEmbedder


class Projecting:
    """The features of an embedder, and a projection of them."""

    def __init__(self, name: str, *, threads: int) -> None:
        """Load the model; where it has a projection, its features are what that gives.

        Raises:
            NoSuchEmbedder: There is none, it cannot be had here, or a file cannot hold it.
        """
        self._parts = exportable(name)
        header, backbone, projection = self._parts
        self.features = TorchEmbedder(
            name,
            backbone,
            pooling=header.pooling,
            preprocessing=header.preprocessing,
            projection=projection,
            normalise=False,
            threads=threads,
            precision="full",
        )
        """What gives the features."""

    def save(self, path: Path, features: Floats, dimension: int, *, whiten: bool) -> None:
        """Fit a projection to features [n, c] and write the embedder.

        Whitened vectors keep their length, so that their Euclidean distance is Mahalanobis'; others are of length 1.

        Raises:
            ValueError: There are fewer features than dimensions.
        """
        projection = exported.fit_projection(features, dimension, whiten=whiten)
        if self._parts.projection:
            projection = _both(self._parts.projection, projection)
        header = self._parts.header.model_copy(update={"normalise": not whiten})
        exported.save(path, header, self._parts.backbone, projection)


def _both(first: Projection, then: Projection) -> Projection:
    """One projection that does what two do, one after the other."""
    mean = first.mean + then.mean @ np.linalg.pinv(first.matrix)
    return Projection(mean.astype(np.float32), np.ascontiguousarray(first.matrix @ then.matrix, np.float32))
