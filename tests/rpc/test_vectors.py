import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.vectors import FLOAT32, from_bytes, to_bytes


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<f2"])
def test_vectors_are_little_endian_float32_row_after_row(kind: str) -> None:
    """Any float type, in any order of bytes, becomes the same bytes."""
    rows = np.array([[1.0, -2.0], [0.5, 0.0]], kind)
    assert to_bytes(rows) == b"\0\0\x80?\0\0\0\xc0\0\0\0?\0\0\0\0"
    assert to_bytes(rows[0]) == b"\0\0\x80?\0\0\0\xc0"
    np.testing.assert_array_equal(from_bytes(to_bytes(rows), 2), rows)


def test_rows_that_do_not_lie_side_by_side() -> None:
    """A view is written as it reads, not as its memory lies."""
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (rows.T, rows[::-1], rows[:, ::2]):
        np.testing.assert_array_equal(from_bytes(to_bytes(view), view.shape[1]), view)


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=5))
def test_bytes_come_back_as_they_were(rows: list[list[float]]) -> None:
    """NaN, infinities, subnormals and minus zero included."""
    data = np.array(rows, FLOAT32).tobytes()
    found = from_bytes(data, 3)
    assert found.shape == (len(rows), 3)
    assert to_bytes(found) == data


@pytest.mark.parametrize(("data", "dimension"), [(b"123", 1), (b"1234", 2), (b"1234", 0), (b"", 0), (b"1234", -1)])
def test_what_is_no_row_is_refused(data: bytes, dimension: int) -> None:
    """Bytes that are not a whole number of rows, and dimensions that are none."""
    with pytest.raises(ValueError, match="are not rows"):
        from_bytes(data, dimension)
