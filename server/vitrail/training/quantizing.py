"""Smaller files of an embedder: in half precision, and in whole numbers of 8 bits that ONNX Runtime computes with."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from vitrail.server.embedders import exported
from vitrail.server.embedders.exported import Exported
from vitrail.server.embedders.folding import folded
from vitrail.server.embedders.network import Pixels, pooled
from vitrail.server.embedders.onnx import NORMALISE, PREPROCESSING
from vitrail.training.replacing import replacing

AT_ONCE = 8
PIXELS, MAPS, VECTORS = "pixels", "maps", "vectors"


def to_half(path: Path, parts: Exported) -> None:
    """Write an embedder with matrices and kernels in half precision; a server loads it as any `file:`.

    Raises:
        ValueError: It has values that are too large for half precision.
    """
    exported.save(path, *parts, half=True)


def to_int8(path: Path, parts: Exported, calibration: Pixels) -> None:
    """Write an embedder as an ONNX file whose backbone computes in 8 bits, weights by channel, for `onnx:`.

    Pooling and projection stay in full precision: whitening enlarges small differences between features.

    Args:
        path: The file; what is there is replaced.
        parts: The embedder.
        calibration: uint8 [n, side, side, 3]: photos as those that it will see. The ranges of 8 bits are theirs.
    """
    with tempfile.TemporaryDirectory() as made:
        backbone, prepared, quantised, tail = (Path(made) / f"{name}.onnx" for name in "bpqt")
        example = torch.from_numpy(calibration[:2])
        seen, rest = _Backbone(parts).eval(), _Tail(parts).eval()
        _write(backbone, seen, example, PIXELS, MAPS)
        with torch.inference_mode():
            maps = seen(example)
        _write(tail, rest, maps, MAPS, VECTORS)
        quant_pre_process(backbone, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, quantised, _Photos(calibration), quant_format=QuantFormat.QDQ, per_channel=True)
        model = onnx.compose.merge_models(
            onnx.load(quantised), onnx.load(tail), [(MAPS, MAPS)], prefix1="backbone/", prefix2="tail/"
        )
    recipe = parts.header
    onnx.helper.set_model_props(
        model, {PREPROCESSING: recipe.preprocessing.model_dump_json(), NORMALISE: str(recipe.normalise).lower()}
    )
    with replacing(path) as partial:
        onnx.save(model, partial)


class _Backbone(torch.nn.Module):
    """From pixels, uint8 [n, side, side, 3], to what the backbone makes of them."""

    middle: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, parts: Exported) -> None:
        super().__init__()
        self.model = folded(copy.deepcopy(parts.backbone.model).eval())
        recipe = parts.header.preprocessing
        self.register_buffer("middle", torch.tensor(recipe.mean))
        self.register_buffer("deviation", torch.tensor(recipe.std))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = ((pixels.float() - self.middle) / self.deviation).permute(0, 3, 1, 2)
        found: torch.Tensor = self.model(images)
        return found


class _Tail(torch.nn.Module):
    """From there to vectors."""

    middle: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, parts: Exported) -> None:
        super().__init__()
        self._parts = parts
        if parts.projection:
            self.register_buffer("middle", torch.from_numpy(parts.projection.mean))
            self.register_buffer("matrix", torch.from_numpy(parts.projection.matrix))

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        vectors = pooled(found, self._parts.header.pooling, self._parts.backbone.prefix_tokens)
        return (vectors - self.middle) @ self.matrix if self._parts.projection else vectors * 1


class _Photos(CalibrationDataReader):  # type: ignore[misc] # it has no types
    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {PIXELS: batch}


def _write(path: Path, module: torch.nn.Module, example: torch.Tensor, given: str, made: str) -> None:
    torch.onnx.export(
        module,
        (example,),
        path,
        input_names=[given],
        output_names=[made],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        optimize=False,  # what is loaded is optimised, and this takes longer than all the rest
        external_data=False,
        verbose=False,
    )
