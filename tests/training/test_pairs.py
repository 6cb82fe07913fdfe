"""Pairs of a query and what is relevant to it, from a file."""

from pathlib import Path

import pytest

from vitrail.client import InvalidArgument
from vitrail.training.pairs import of_pairs, read_pairs
from vitrail.training.photos import Photo


def test_pairs_give_places_in_the_gallery(tmp_path: Path) -> None:
    """In their order, each once; what the gallery does not have, since it could not be decoded, has none."""
    (tmp_path / "pairs.csv").write_text("query,relevant\na,c\na,b\na,c\nb,gone\n")
    pairs = read_pairs(tmp_path / "pairs.csv")
    pairs.check({"a", "b", "c", "gone"})
    gallery = [Photo(id, "") for id in "abc"]
    assert [places.tolist() for places in of_pairs(pairs, gallery, gallery)] == [[1, 2], [], []]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("query,found\na,b\n", "no column 'relevant'"),
        ("query,relevant\n", "no pairs"),
        ("query,relevant\na,b\nb,\n", "pairs.csv:3: a pair is two ids"),
        ('query,relevant\n"a,b\n', "cannot be read"),
        ("query,relevant\na,b\na,z\n", "pairs.csv:3: there is no 'z'"),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InvalidArgument, match=why):
        read_pairs(tmp_path / "pairs.csv").check({"a", "b"})
