"""Embedders that ONNX Runtime runs: a file whose one input is images and whose first output is vectors, floats [n, d].

Images are floats [n, 3, side, side], from which the mean was subtracted and which were divided by the deviation; or
uint8 [n, side, side, 3], with which the model does that itself.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.server.embedders.calibration import Trial
from vitrail.server.embedders.hub import NoSuchEmbedder
from vitrail.server.embedders.network import COMPARING_SECONDS, Floats, Pixels
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedders.recipe import Recipe

PREPROCESSING = "vitrail.preprocessing"
"""Under this name a file's metadata may say, as JSON, how images are made for it; otherwise as for ImageNet."""
NORMALISE = "vitrail.normalise"
"""Under this name, whether vectors are brought to length 1: "true", or "false" where lengths say something."""
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CHUNK = 32
CPU = "CPU"


class OnnxEmbedder:
    """A model in a file, loaded."""

    def __init__(self, name: str, path: Path, *, threads: int, preprocessing: Preprocessing | None = None) -> None:
        """Load it.

        Raises:
            NoSuchEmbedder: There is none, ONNX Runtime is missing or cannot read it, or it has another shape.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise NoSuchEmbedder(f"{name} needs more packages: pip install 'vitrail[onnx]'") from error

        def session(threads: int) -> "onnxruntime.InferenceSession":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            return onnxruntime.InferenceSession(data, options, providers=onnxruntime.get_available_providers())

        try:
            data = path.read_bytes()
            self._session = session(threads)
            inputs = self._session.get_inputs()
            if len(inputs) != 1 or len(inputs[0].shape) != 4:
                raise ValueError("it must have one input, images [n, 3, side, side] or [n, side, side, 3]")
            self._input = inputs[0].name
            self._type = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16}.get(inputs[0].type, np.float32)
            metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            self.preprocessing = preprocessing or _declared(metadata, inputs[0].shape[2])
            self.normalised = metadata.get(NORMALISE) != "false"
            side = self.preprocessing.crop
            found = self._run(np.zeros((1, side, side, 3), np.uint8))
            if found.ndim != 2:
                raise ValueError(f"its output must be [n, d], not of {found.ndim} axes")
        except Exception as error:  # ONNX Runtime has exceptions of its own that it does not name publicly
            raise NoSuchEmbedder(f"cannot load {path}: {error}") from error
        self.name = name
        self.dimension = found.shape[1]
        recipe = Recipe(
            backbone="onnx",
            weights=hashlib.sha256(data).hexdigest(),
            preprocessing=self.preprocessing,
            normalise=self.normalised,
        )
        self.space = recipe.space(name)
        self._workers = 1
        if onnxruntime.get_device() == CPU and threads > 1:
            sessions = {1: session(1), threads: self._session}
            chosen = self._chosen(sessions)
            self._session = sessions[chosen]
            self._workers = threads // chosen

    def copies(self) -> Sequence[Callable[[Pixels], Floats]]:
        """On a CPU one for each thread, unless all of them are clearly faster with one photo; see `Network`."""
        return [self.embed] * self._workers

    def embed(self, pixels: Pixels) -> Floats:
        """Embed uint8 [n, side, side, 3] as float32 [n, dimension]."""
        found = np.concatenate([self._run(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)])
        if not self.normalised:
            return found
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        vectors: Floats = found / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    def _chosen(self, sessions: "dict[int, Any]") -> int:
        """How many threads are to work on one photo."""
        side = self.preprocessing.crop
        photo = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)

        def embed(threads: int) -> None:
            self._session = sessions[threads]
            self._run(photo)

        embed(1)  # what the first call prepares is no part of it
        trial = Trial(1, [threads for threads in sessions if threads != 1])
        trial.run(embed, COMPARING_SECONDS)
        return trial.best

    def _run(self, pixels: Pixels) -> Floats:
        images: np.ndarray[Any, Any] = pixels
        if self._type != np.uint8:
            mean, std = (np.array(values, np.float32) for values in (self.preprocessing.mean, self.preprocessing.std))
            images = ((pixels - mean) / std).transpose(0, 3, 1, 2).astype(self._type)
        found: Floats = np.asarray(self._session.run(None, {self._input: images})[0], np.float32)
        return found


def _declared(metadata: Mapping[str, str], side: object) -> Preprocessing:
    """How images are made for a model: as its file says, or else as for ImageNet."""
    if PREPROCESSING in metadata:
        return Preprocessing.model_validate_json(metadata[PREPROCESSING])
    if not isinstance(side, int):
        raise ValueError(f"it says neither the side of its images nor {PREPROCESSING!r}")
    return Preprocessing(resize=round(side / 0.875), crop=side, mean=IMAGENET_MEAN, std=IMAGENET_STD)
