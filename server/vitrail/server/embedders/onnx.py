"""Embedders that ONNX Runtime runs: a file whose one input is images [n, 3, side, side] and first output [n, d]."""

import hashlib
from pathlib import Path

import numpy as np

from vitrail.server.embedders.hub import NoSuchEmbedder
from vitrail.server.embedders.network import Floats, Pixels
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Recipe

PREPROCESSING = "vitrail.preprocessing"
"""Under this name a file's metadata may say, as JSON, how images are made for it; otherwise as for ImageNet."""
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CHUNK = 32


class OnnxEmbedder:
    """A model in a file, loaded."""

    normalised = True

    def __init__(self, name: str, path: Path, *, threads: int, preprocessing: Preprocessing | None = None) -> None:
        """Load it.

        Raises:
            NoSuchEmbedder: There is none, ONNX Runtime is missing or cannot read it, or it has another shape.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise NoSuchEmbedder(f"{name} needs more packages: pip install 'vitrail[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            data = path.read_bytes()
            self._session = onnxruntime.InferenceSession(data, options, providers=onnxruntime.get_available_providers())
            inputs = self._session.get_inputs()
            if len(inputs) != 1 or len(inputs[0].shape) != 4:
                raise ValueError("it must have one input, images [n, 3, side, side]")
            self._input = inputs[0].name
            self._type = np.float16 if "float16" in inputs[0].type else np.float32
            self.preprocessing = preprocessing or _declared(self._session, inputs[0].shape[2])
            side = self.preprocessing.crop
            found = self._run(np.zeros((1, side, side, 3), np.uint8))
            if found.ndim != 2:
                raise ValueError(f"its output must be [n, d], not of {found.ndim} axes")
        except Exception as error:  # ONNX Runtime has exceptions of its own that it does not name publicly
            raise NoSuchEmbedder(f"cannot load {path}: {error}") from error
        self.name = name
        self.dimension = found.shape[1]
        recipe = Recipe(backbone="onnx", weights=hashlib.sha256(data).hexdigest(), preprocessing=self.preprocessing)
        self.space = recipe.space(name)

    def embed(self, pixels: Pixels) -> Floats:
        """Embed uint8 [n, side, side, 3] as unit vectors float32 [n, dimension]."""
        found = np.concatenate([self._run(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)])
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        vectors: Floats = found / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    def _run(self, pixels: Pixels) -> Floats:
        mean, std = (np.array(values, np.float32) for values in (self.preprocessing.mean, self.preprocessing.std))
        images = ((pixels - mean) / std).transpose(0, 3, 1, 2).astype(self._type)
        found: Floats = np.asarray(self._session.run(None, {self._input: images})[0], np.float32)
        return found


def _declared(session: "object", side: object) -> Preprocessing:
    """How images are made for a model: as its file says, or else as for ImageNet."""
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map  # type: ignore[attr-defined]
    if PREPROCESSING in metadata:
        return Preprocessing.model_validate_json(metadata[PREPROCESSING])
    if not isinstance(side, int):
        raise ValueError(f"it says neither the side of its images nor {PREPROCESSING!r}")
    return Preprocessing(resize=round(side / 0.875), crop=side, mean=IMAGENET_MEAN, std=IMAGENET_STD)
