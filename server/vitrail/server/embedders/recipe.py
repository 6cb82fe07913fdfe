"""What an embedding space is: everything that decides which vector an image gets, and its fingerprint."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vitrail.server.embedders.preprocessing import Preprocessing

Pooling = Literal["native", "average", "gem", "class"]
# How `decode.py` makes pixels of bytes: another number where it makes others, which gives other vectors.
DECODING = 2


class Recipe(BaseModel):
    """From pixels to a vector: two vectors compare only if all of this was the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    """The model, by the name of its family and its own."""
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of its weights."""
    preprocessing: Preprocessing
    pooling: Pooling = "native"
    """Of the last feature map: as the model itself does, its mean, its generalised mean (GeM with p = 3: Radenović et
    al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018), or the class token."""
    projection: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """SHA-256 of the matrix that maps what was pooled to the vector (PCA, whitening); empty where there is none."""
    normalise: bool = True
    """Whether the vector is brought to length 1. Without it, the Euclidean distance after whitening is Mahalanobis'."""
    decoding: int = DECODING

    def space(self, name: str) -> str:
        """The fingerprint, with a name for people before it."""
        canonical = self.model_dump_json()
        return f"{name}:{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"
