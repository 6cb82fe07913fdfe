"""Vectors and arrays of them, from whatever the caller holds."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.errors import InvalidArgument
from vitrail.rpc.vectors import FLOAT32


class Tensor(Protocol):
    """A tensor of PyTorch, or what behaves like one. The SDK never imports torch."""

    def detach(self) -> Any: ...


VectorLike: TypeAlias = NDArray[Any] | Tensor | Sequence[float]
"""One vector [d] of any numeric type; it travels as float32."""

MatrixLike: TypeAlias = NDArray[Any] | Tensor | Sequence[Sequence[float]]
"""Many vectors [n, d] of any numeric type; they travel as float32."""

NUMERIC = "fiu"


def is_tensor(value: object) -> bool:
    return hasattr(value, "detach")


def from_tensor(tensor: Any) -> NDArray[Any]:
    """Bring a tensor to NumPy, from any device; bfloat16, which NumPy lacks, widens to float32."""
    tensor = tensor.detach().cpu()
    if "bfloat16" in str(tensor.dtype):
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy()
    return array


def to_array(value: Any, dimensions: int, field: str) -> NDArray[Any]:
    """Read a numeric array of so many dimensions, without a copy where it is one already.

    Raises:
        InvalidArgument: It is no array, not numeric, or of another shape.
    """
    try:
        array = from_tensor(value) if is_tensor(value) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidArgument(f"not an array: {error}", field=field) from error
    if array.dtype.kind not in NUMERIC:
        raise InvalidArgument(f"the elements are {array.dtype}, not numbers", field=field)
    if array.ndim != dimensions:
        expected = "[d]" if dimensions == 1 else "[n, d]"
        raise InvalidArgument(f"the shape is {list(array.shape)}, not {expected}", field=field)
    if not array.shape[-1]:
        raise InvalidArgument("a vector needs at least one dimension", field=field)
    return array


def to_vector(value: VectorLike, field: str = "vector") -> NDArray[np.float32]:
    """Read one vector [d] of finite float32.

    Raises:
        InvalidArgument: It is no such vector, or a number is NaN, infinite or beyond float32.
    """
    vector = to_float32(to_array(value, 1, field))
    if not np.isfinite(vector).all():
        raise InvalidArgument("a number is NaN, infinite, or too large for float32", field=field)
    return vector


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Narrow to float32; what is too large becomes infinite, which whoever reads it refuses."""
    with np.errstate(over="ignore"):
        return array.astype(FLOAT32, copy=False)
