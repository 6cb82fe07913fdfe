"""What an embedder is to the rest of the server, whatever is behind it."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from vitrail.server.embedders.network import Floats, Pixels
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.v1.search_pb2 import TextMethod


class Embedder(Protocol):
    """An embedding space and the way into it; `embed` is called from one thread at a time.

    Attributes:
        name: The name that a collection asks for.
        space: The fingerprint of weights and preprocessing: vectors compare only where it is equal.
        dimension: Components of a vector.
        preprocessing: From a decoded photo to pixels.
        normalised: Whether its vectors are of length 1.
    """

    @property
    def name(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def normalised(self) -> bool: ...

    def embed(self, pixels: Pixels) -> Floats:
        """Pixels uint8 [n, side, side, 3] to vectors float32 [n, dimension]."""


@runtime_checkable
class Replicated(Protocol):
    """One whose model is on each of several devices."""

    def copies(self) -> Sequence[Callable[[Pixels], Floats]]:
        """`embed` on each device, the first the one that `embed` itself uses; each is for one thread at a time."""


@runtime_checkable
class TextEmbedder(Protocol):
    """One whose space has texts, too."""

    @property
    def text_method(self) -> "TextMethod.ValueType":
        """How they come to lie beside images."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Texts to vectors float32 [n, dimension], beside those of images that show what they say."""
