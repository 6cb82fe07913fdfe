from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.client.pictures import photo, pixels

from vitrail.client import IndexOptions, InvalidArgument, Query, Record, ResourceExhausted, VitrailError
from vitrail.client.batches import MESSAGE_LIMIT
from vitrail.client.models import DeleteResult, UpsertResult, Written
from vitrail.client.requests import (
    SearchOptions,
    create_collection_request,
    example_message,
    query_message,
    record_input,
)
from vitrail.rpc.attributes import from_values


def options(**changes: Any) -> SearchOptions:
    return SearchOptions(**{
        "top_k": 10, "nprobe": None, "rerank_factor": None, "exact": False, "target_recall": None,
        "filter": None, "min_score": None, "min_coverage": 0.0, "min_seq": 0, "include": (), **changes,
    })  # fmt: skip


def test_a_record_with_everything() -> None:
    """Attributes keep their types, NumPy's scalars become Python's, and the vector tells its space."""
    attributes: dict[str, Any] = {"s": "a", "n": np.int64(3), "f": np.float32(0.5), "b": np.True_, "l": ("x",)}
    message = record_input(Record("a", vector=[1.0, 2.0], attributes=attributes, uri="u"), "space")
    assert from_values(message.attributes) == {"s": "a", "n": 3, "f": 0.5, "b": True, "l": ["x"]}
    assert (message.id, message.uri, message.vector.space) == ("a", "u", "space")
    assert np.frombuffer(message.vector.data, "<f4").tolist() == [1.0, 2.0]


def test_an_empty_image_is_an_image() -> None:
    """Empty bytes are sent as an image, and a bad one; a record without content has none."""
    assert record_input(Record("a", image=b""), None).WhichOneof("content") == "image"
    assert query_message(Query(image=b""), None).WhichOneof("kind") == "image"
    assert record_input(Record("a"), None).WhichOneof("content") is None


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (Record(""), "id"),
        (Record("\ud800"), "id"),
        (Record(7), "id"),  # type: ignore[arg-type]  # what a caller without a type checker may do
        (Record("a", image=photo(), vector=[1.0]), "image"),
        (Record("a", image="/no/such"), "image"),
        (Record("a", vector=[np.nan]), "vector"),
        (Record("a", attributes={"x": b""}), "attributes.x"),  # type: ignore[dict-item]  # as above
    ],
)
def test_a_wrong_record_is_refused(record: Record, field: str) -> None:
    """What is wrong with a record in itself is found before it travels, and named."""
    with pytest.raises(InvalidArgument) as refused:
        record_input(record, None)
    assert refused.value.field == field


def test_a_record_larger_than_a_message_is_refused() -> None:
    """A message that can never arrive is not sent."""
    with pytest.raises(ResourceExhausted, match="a message holds") as refused:
        record_input(Record("a", image=b"\xff" * (MESSAGE_LIMIT + 1)), None)
    assert refused.value.field == "image"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query(), "query"),
        (Query(image=b"", like="a"), "query"),
        (Query(vector=[1.0], liked=["a"]), "query"),
        (Query(like=""), "query.record_id"),
        (Query(like="\ud800"), "query.record_id"),
        (Query(vector=[np.inf]), "query.vector"),
        (Query(image="/no/such"), "query.image"),
        (Query(disliked=["a"]), "query.examples.liked"),
        (Query(liked="abc"), "query.examples.liked"),
        (Query(liked=["a", ""]), "query.examples.liked[1]"),
        (Query(liked=["a"], disliked=[Path("/no/such")]), "query.examples.disliked[0]"),
    ],
)
def test_a_wrong_query_is_refused(query: Query, field: str) -> None:
    """A query is exactly one kind, readable, and what is wrong with it is named."""
    with pytest.raises(InvalidArgument) as refused:
        query_message(query, None)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("example", "kind"),
    [
        ("an id", "record_id"),
        (Path(__file__), "image"),
        (photo(), "image"),
        (pixels(), "image"),
        (Image.fromarray(pixels()), "image"),
        (np.ones(3), "vector"),
        ([1.0, 2.0], "vector"),
    ],
)
def test_examples_of_every_kind(example: Any, kind: str) -> None:
    """A string is an id, one dimension a vector, everything else an image."""
    assert example_message(example, None, "liked[0]").WhichOneof("kind") == kind


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"top_k": 2**31}, "top_k"),
        ({"nprobe": -(2**40)}, "nprobe"),
        ({"include": ("vectors",)}, "include"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], field: str) -> None:
    """Options that cannot travel are refused and named; whether 0 hits make sense is the server's to say."""
    assert options(top_k=0).fields()["top_k"] == 0
    with pytest.raises(InvalidArgument) as refused:
        options(**wrong).fields()
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"metric": "manhattan"}, "metric"),
        ({"dimension": 0}, "dimension"),
        ({"train_at": 0}, "train_at"),
        ({"attributes": {"price": "money"}}, "attributes.price"),
        ({"index": IndexOptions(lists=2**31)}, "index.lists"),
    ],
)
def test_wrong_definitions_are_refused(wrong: dict[str, Any], field: str) -> None:
    """What the wire would read as "not given", or could not carry, is refused and named."""
    given: dict[str, Any] = {
        "embedder": None, "dimension": None, "metric": "cosine", "attributes": None, "train_at": 100,
        "thumbnails": False, "index": None, "keep_images": False, **wrong,
    }  # fmt: skip
    with pytest.raises(VitrailError) as refused:
        create_collection_request("a", **given)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("min_seq", "sent"),
    [(0, (0, 0)), (7, (7, 0)), (UpsertResult(7, (), 5), (7, 5)), (DeleteResult(7, 1, 5), (7, 5))],
)
def test_a_write_that_a_search_must_see(min_seq: Written, sent: tuple[int, int]) -> None:
    """A number is sent alone; what a write returned, with the mark by which the store knows it."""
    fields = options(min_seq=min_seq).fields()
    assert (fields["min_seq"], fields["min_mark"]) == sent
