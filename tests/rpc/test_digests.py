import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.digests import digest

PARTS = st.binary(max_size=4)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ((b"", 0, b"", b""), 0x4E92FBEE4AFD555F),
        ((b"a", 1, b"\0\0\0\0", b""), 0x08BED14BA44D3901),
        (("ключ".encode(), 2**63 - 1, bytes(range(256)), b"\n\x01n"), 0x9B4EE61CBD96BCE5),
    ],
)
def test_digests_are_the_same_everywhere(record: tuple[bytes, int, bytes, bytes], expected: int) -> None:
    """Both ends of a wire, and what is on disk, must agree on them."""
    assert digest(*record) == expected


@given(PARTS, st.integers(0, 3), PARTS, PARTS, PARTS, st.integers(0, 3), PARTS, PARTS)
def test_every_part_counts(
    id: bytes, seq: int, vector: bytes, attributes: bytes, id_: bytes, seq_: int, vector_: bytes, attributes_: bytes
) -> None:
    """Two records that differ anywhere differ in their digests, also where only the border of two parts has moved."""
    one, other = (id, seq, vector, attributes), (id_, seq_, vector_, attributes_)
    assert (digest(*one) == digest(*other)) == (one == other)
    joined = (id + vector, seq, b"", attributes)
    assert (digest(*one) == digest(*joined)) == (one == joined)
