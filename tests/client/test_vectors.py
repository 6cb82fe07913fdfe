from typing import Any

import numpy as np
import pytest
import torch

from vitrail.client import InvalidArgument
from vitrail.client.vectors import to_array, to_vector


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.float16),
        np.array([1, 9, 2, 9, 3, 9], ">f8")[::2],
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([1, 2, 3], dtype=torch.bfloat16),
    ],
)
def test_vectors_of_every_kind(value: Any) -> None:
    """Anything numeric of one dimension is read as float32."""
    vector = to_vector(value)
    assert vector.dtype == np.float32
    assert vector.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "dimension"),
        ([[1.0, 2.0]], r"not \[d\]"),
        (1.0, r"not \[d\]"),
        (["a", "b"], "not numbers"),
        ([1.0, None], "not numbers"),
        ([True, False], "not numbers"),
        ([1j], "not numbers"),
        ([[1.0], [1.0, 2.0]], "not an array"),
        ([1.0, float("nan")], "NaN"),
        ([1.0, float("inf")], "infinite"),
        ([1.0, 1e300], "too large"),
    ],
)
def test_what_is_no_vector_is_refused(value: Any, message: str) -> None:
    """A wrong type, shape or number raises InvalidArgument and names the field."""
    with pytest.raises(InvalidArgument, match=message) as refused:
        to_vector(value, "liked[2]")
    assert refused.value.field == "liked[2]"


def test_arrays_are_not_copied() -> None:
    """Many vectors are read where they lie, memory-mapped files too, and judged row by row by the server."""
    array = np.full((3, 2), np.nan)
    assert to_array(array, 2, "vectors") is array
