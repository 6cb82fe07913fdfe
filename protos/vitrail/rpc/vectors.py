"""Vectors as bytes: little-endian float32, row after row, whatever the machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32 = np.dtype("<f4")
FLOAT16 = np.dtype("<f2")


def to_bytes(vectors: NDArray[Any]) -> bytes:
    """Write one vector [d] or many [n, d] of any float type as float32."""
    return np.ascontiguousarray(vectors, dtype=FLOAT32).tobytes()


def from_bytes(data: bytes, dimension: int) -> NDArray[np.float32]:
    """Read float32 [n, d] without a copy.

    Raises:
        ValueError: The bytes are not a whole number of rows.
    """
    if dimension <= 0 or len(data) % (FLOAT32.itemsize * dimension):
        raise ValueError(f"{len(data)} bytes are not rows of {dimension} float32")
    return np.frombuffer(data, FLOAT32).reshape(-1, dimension)
