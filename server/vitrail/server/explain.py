"""What is done to a photo before a model sees it, as pictures."""

import io

from PIL import Image

from vitrail.rpc.errors import InvalidArgument
from vitrail.server.config import DEFAULT_EMBEDDER
from vitrail.server.decode import ImageLimits, decode
from vitrail.server.embedders.names import make
from vitrail.server.embedders.preprocessing import Step


def explain(data: bytes, embedder: str | None = None) -> list[Step]:
    """The photo as it was encoded, and after each step, each with a name.

    Raises:
        ValueError: It cannot be decoded, or there is no such embedder.
    """
    preprocessing = make(embedder or DEFAULT_EMBEDDER, threads=1).preprocessing
    try:
        image = decode(data, ImageLimits(), preprocessing.target, background=preprocessing.background)
    except InvalidArgument as error:
        raise ValueError(str(error)) from error
    with Image.open(io.BytesIO(data)) as encoded:  # it was found to be within limits
        encoded.thumbnail((2 * preprocessing.target,) * 2)
        return [("encoded", encoded.convert("RGBA")), *preprocessing.steps(image)]
