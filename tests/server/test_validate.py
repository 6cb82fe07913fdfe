from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.server.images import jpeg, jpeg_of_size, picture
from vitrail.rpc.errors import EmbeddingSpaceMismatch, InvalidArgument, VitrailError
from vitrail.server import validate
from vitrail.v1.collection_pb2 import Collection, IndexOptions
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.record_pb2 import RecordInput
from vitrail.v1.search_pb2 import SearchParameters, SearchRequest
from vitrail.v1.types_pb2 import AttributeType, Metric, Value, Vector, VectorArray

COSINE = Collection(name="c", dimension=2, metric=Metric.METRIC_COSINE, space="lite0:1")
EUCLIDEAN = Collection(name="c", dimension=2, metric=Metric.METRIC_EUCLIDEAN)


def search(**parameters: float) -> SearchRequest:
    return SearchRequest(parameters=SearchParameters(**parameters))  # type: ignore[arg-type]  # floats on purpose


def vector(*values: float, **fields: object) -> Vector:
    return Vector(values=values, **fields)  # type: ignore[arg-type]  # whatever the table has


def origin(*, has_vector: bool = True, **fields: bytes) -> None:
    validate.origin(RecordInput(**fields), has_vector=has_vector)  # type: ignore[arg-type]  # bytes, all of them


THUMBNAIL = jpeg(picture())

WRONG: dict[str, tuple[Callable[[], object], type[VitrailError], str]] = {
    "no vector": (lambda: validate.vector(Vector(), COSINE, "v"), InvalidArgument, "v"),
    "both forms": (lambda: validate.vector(vector(1, 0, data=b"12345678"), COSINE, "v"), InvalidArgument, "v"),
    "half a float": (lambda: validate.vector(Vector(data=b"1234567"), COSINE, "v"), InvalidArgument, "v"),
    "three dimensions": (lambda: validate.vector(vector(1, 2, 3), COSINE, "v"), InvalidArgument, "v"),
    "NaN": (lambda: validate.vector(vector(1, np.nan), COSINE, "v"), InvalidArgument, "v"),
    "infinite": (lambda: validate.vector(vector(1, -np.inf), EUCLIDEAN, "v"), InvalidArgument, "v"),
    "zero, cosine": (lambda: validate.vector(vector(0, 0), COSINE, "v"), InvalidArgument, "v"),
    "another space": (lambda: validate.vector(vector(1, 0, space="x"), COSINE, "v"), EmbeddingSpaceMismatch, "v"),
    "a space where there is none": (
        lambda: validate.vector(vector(1, 0, space="x"), EUCLIDEAN, "v"),
        EmbeddingSpaceMismatch,
        "v",
    ),
    "an array of another dimension": (
        lambda: validate.vector_array(VectorArray(data=b"1234", dimension=1), COSINE, "v"),
        InvalidArgument,
        "v",
    ),
    "an array of no whole rows": (
        lambda: validate.vector_array(VectorArray(data=b"1234", dimension=2), COSINE, "v"),
        InvalidArgument,
        "v",
    ),
    "top_k 0": (lambda: validate.top_k(SearchRequest(top_k=0)), InvalidArgument, "top_k"),
    "top_k -1": (lambda: validate.top_k(SearchRequest(top_k=-1)), InvalidArgument, "top_k"),
    "top_k 1,001": (lambda: validate.top_k(SearchRequest(top_k=1001)), InvalidArgument, "top_k"),
    "nprobe 0": (lambda: validate.parameters(search(nprobe=0), COSINE, 1), InvalidArgument, "parameters.nprobe"),
    "a factor of NaN": (
        lambda: validate.parameters(search(rerank_factor=np.nan), COSINE, 1),
        InvalidArgument,
        "parameters.rerank_factor",
    ),
    "a filter on nothing": (
        lambda: validate.parameters(SearchRequest(filter="price < 80"), COSINE, 1),
        InvalidArgument,
        "filter",
    ),
    "a score of NaN": (lambda: validate.min_score(SearchRequest(min_score=np.nan)), InvalidArgument, "min_score"),
    "coverage 1.1": (lambda: validate.min_coverage(SearchRequest(min_coverage=1.1)), InvalidArgument, "min_coverage"),
    "1,001 queries": (lambda: validate.batch_size(1001, 1, "queries"), InvalidArgument, "queries"),
    "100,001 hits": (lambda: validate.batch_size(101, 1000, "queries"), InvalidArgument, "top_k"),
    "no id": (lambda: validate.record_id("", "id"), InvalidArgument, "id"),
    "an id of 513 bytes": (lambda: validate.record_id("ü" * 257, "id"), InvalidArgument, "id"),
    "an attribute without value": (
        lambda: validate.attributes({"a": Value()}, "attributes"),
        InvalidArgument,
        "attributes.a",
    ),
    "an attribute with a bad name": (
        lambda: validate.attributes({"a b": Value(integer_value=1)}, "attributes"),
        InvalidArgument,
        "attributes.a b",
    ),
    "65 attributes": (
        lambda: validate.attributes({f"a{n}": Value(integer_value=1) for n in range(65)}, "attributes"),
        InvalidArgument,
        "attributes",
    ),
    "a large attribute": (
        lambda: validate.attributes({"a": Value(string_value="x" * 70_000)}, "attributes"),
        InvalidArgument,
        "attributes",
    ),
    "a hash of 31 bytes": (lambda: origin(content_hash=bytes(31)), InvalidArgument, "content_hash"),
    "a hash without a vector": (
        lambda: origin(has_vector=False, content_hash=bytes(32)),
        InvalidArgument,
        "content_hash",
    ),
    "a thumbnail without a vector": (
        lambda: origin(has_vector=False, thumbnail=THUMBNAIL),
        InvalidArgument,
        "thumbnail",
    ),
    "a thumbnail that is no JPEG": (lambda: origin(thumbnail=b"junk"), InvalidArgument, "thumbnail"),
    "a thumbnail of 513 pixels": (lambda: origin(thumbnail=jpeg_of_size(513, 1)), InvalidArgument, "thumbnail"),
    "a thumbnail of more than 64 KiB": (
        lambda: origin(thumbnail=THUMBNAIL + bytes(65_536)),
        InvalidArgument,
        "thumbnail",
    ),
    "a name with a slash": (lambda: validate.collection_name("a/b"), InvalidArgument, "name"),
    "4,097 dimensions": (lambda: validate.dimension(4097), InvalidArgument, "dimension"),
    "train_at 38": (lambda: validate.train_at(38), InvalidArgument, "train_at"),
    "a page of 1,001": (lambda: validate.page_size(1001), InvalidArgument, "page_size"),
    "half a NaN": (lambda: validate.vector(Vector(data=b"\0\0\xc0\x7f" * 2), COSINE, "v"), InvalidArgument, "v"),
    "an array of another space": (
        lambda: validate.vector_array(VectorArray(data=b"12345678", dimension=2, space="x"), COSINE, "v"),
        EmbeddingSpaceMismatch,
        "v",
    ),
    "an array of dimension 0": (lambda: validate.vector_array(VectorArray(), COSINE, "v"), InvalidArgument, "v"),
    "nprobe 65,537": (
        lambda: validate.parameters(search(nprobe=65_537), COSINE, 1),
        InvalidArgument,
        "parameters.nprobe",
    ),
    "a factor of a half": (
        lambda: validate.parameters(search(rerank_factor=0.5), COSINE, 1),
        InvalidArgument,
        "parameters.rerank_factor",
    ),
    "an infinite factor": (
        lambda: validate.parameters(search(rerank_factor=np.inf), COSINE, 1),
        InvalidArgument,
        "parameters.rerank_factor",
    ),
    "coverage -0.1": (lambda: validate.min_coverage(SearchRequest(min_coverage=-0.1)), InvalidArgument, "min_coverage"),
    "coverage NaN": (
        lambda: validate.min_coverage(SearchRequest(min_coverage=np.nan)),
        InvalidArgument,
        "min_coverage",
    ),
    "no queries": (lambda: validate.batch_size(0, 1, "queries"), InvalidArgument, "queries"),
    "no examples": (lambda: validate.examples(0, "query.examples"), InvalidArgument, "query.examples"),
    "a uri of 4,097 bytes": (lambda: validate.uri("x" * 4097, "uri"), InvalidArgument, "uri"),
    "an attribute without name": (
        lambda: validate.attributes({"": Value(integer_value=1)}, "attributes"),
        InvalidArgument,
        "attributes.",
    ),
    "an attribute named by a number": (
        lambda: validate.attributes({"1a": Value(integer_value=1)}, "attributes"),
        InvalidArgument,
        "attributes.1a",
    ),
    "an attribute with a long name": (
        lambda: validate.attributes({"x" * 65: Value(integer_value=1)}, "attributes"),
        InvalidArgument,
        f"attributes.{'x' * 65}",
    ),
    "a line break in a name": (
        lambda: validate.attributes({"a\n": Value(integer_value=1)}, "attributes"),
        InvalidArgument,
        "attributes.a\n",
    ),
    "attributes large together": (
        lambda: validate.attributes({f"a{n}": Value(string_value="x" * 1100) for n in range(64)}, "attributes"),
        InvalidArgument,
        "attributes",
    ),
    "a declared attribute without type": (lambda: validate.attribute_types({"a": 0}), InvalidArgument, "attributes.a"),
    "a type of a later version": (lambda: validate.attribute_types({"a": 99}), InvalidArgument, "attributes.a"),
    "a declared attribute with a bad name": (
        lambda: validate.attribute_types({"a-b": 1}),
        InvalidArgument,
        "attributes.a-b",
    ),
    "a metric of a later version": (lambda: validate.metric(Collection(metric=99).metric), InvalidArgument, "metric"),  # type: ignore[arg-type]
    "no name": (lambda: validate.collection_name(""), InvalidArgument, "name"),
    "a hidden name": (lambda: validate.collection_name(".x"), InvalidArgument, "name"),
    "a name of 129 letters": (lambda: validate.collection_name("x" * 129), InvalidArgument, "name"),
    "a name with a line break": (lambda: validate.collection_name("x\n"), InvalidArgument, "name"),
    "one dimension": (lambda: validate.dimension(1), InvalidArgument, "dimension"),
    "a page of -1": (lambda: validate.page_size(-1), InvalidArgument, "page_size"),
    "101 examples": (lambda: validate.examples(101, "query.examples"), InvalidArgument, "query.examples"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_with_its_field(what: str) -> None:
    """The class of the contract, and the field."""
    check, error, field = WRONG[what]
    with pytest.raises(error) as caught:
        check()
    assert getattr(caught.value, "field", None) == field


@pytest.mark.parametrize(
    "parameters",
    [
        {"target_recall": 0.0},
        {"target_recall": -0.5},
        {"target_recall": 1.0},
        {"target_recall": np.nan},
        {"target_recall": 0.9, "nprobe": 4},
        {"target_recall": 0.9, "rerank_factor": 4},
        {"target_recall": 0.9, "exact": True},
    ],
)
def test_a_target_recall_is_a_share_and_stands_alone(parameters: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate.parameters(search(**parameters), COSINE, 1)
    assert caught.value.field == "parameters.target_recall"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("components", [1, 65, -1]),
        ("lists", [0, 65_537]),
        ("code_bytes", [0, 4097]),
        ("bits", [0, 5, 16]),
        ("nprobe", [0, 65_537]),
        ("rerank_factor", [0.5, np.nan]),
        ("target_recall", [0.0, 1.0, np.nan]),
    ],
)
def test_index_options_are_bounded(name: str, values: Sequence[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidArgument) as caught:
            validate.index_options(IndexOptions(**{name: value}), 64)
        assert caught.value.field == f"index.{name}"


def test_what_is_right_passes() -> None:
    """Values at the limits, a zero vector where it is a point like any other, and what is not given."""
    np.testing.assert_array_equal(validate.vector(vector(0, 0), EUCLIDEAN, "v"), [0, 0])
    np.testing.assert_array_equal(validate.vector(vector(3, 4, space="lite0:1"), COSINE, "v"), [3, 4])
    assert [validate.top_k(SearchRequest(top_k=k)) for k in (1, 1000)] == [1, 1000]
    assert validate.top_k(SearchRequest()) == 10
    assert validate.min_score(SearchRequest()) == -np.inf
    assert [validate.min_coverage(SearchRequest(min_coverage=share)) for share in (0, 1)] == [0, 1]
    assert validate.page_size(0) == 100
    assert validate.metric(Metric.METRIC_EUCLIDEAN) == Metric.METRIC_EUCLIDEAN
    np.testing.assert_array_equal(validate.vector(vector(data=b"\0\0\x80?\0\0\0\xc0"), COSINE, "v"), [1, -2])
    validate.batch_size(100, 1000, "queries")
    validate.attributes({f"{'x' * 62}{n:02}": Value(integer_value=1) for n in range(64)}, "attributes")
    validate.attribute_types({"a": 1, "_b": 6})
    validate.collection_name("x" * 128)
    validate.uri("x" * 4096, "uri")
    assert validate.parameters(search(nprobe=7), COSINE, 5).nprobe == 7
    assert validate.parameters(search(target_recall=0.75), COSINE, 5).target_recall == 0.75
    assert validate.parameters(search(), COSINE, 5).filter == b""
    priced = Collection(attributes={"price": AttributeType.ATTRIBUTE_TYPE_FLOAT})
    condition = validate.parameters(SearchRequest(filter="price IS NULL"), priced, 5).filter
    assert Filter.FromString(condition).is_null == "price"
    limits: dict[str, Any] = {
        "components": 64,
        "lists": 65_536,
        "code_bytes": 4096,
        "bits": 8,
        "nprobe": 1,
        "target_recall": 0.5,
    }
    validate.index_options(IndexOptions(**limits, rerank_factor=1), 64)
    validate.index_options(IndexOptions(), 2)
    validate.record_id("x" * 512, "id")
    origin(content_hash=bytes(32), thumbnail=THUMBNAIL)
    origin(has_vector=False)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-10, 1.0, 1e10, 1e19, 3e38])
def test_vectors_of_any_length_become_unit_vectors(scale: float) -> None:
    """Neither overflow nor underflow turns a direction into another one."""
    rows = np.array([[1.0, -1.0], [0.5, 0.25]], np.float32) * np.float32(scale)
    assert validate.unusable(rows, COSINE) == ["", ""]
    found = validate.unit(rows)
    np.testing.assert_allclose(found[0], np.array([1, -1]) / np.sqrt(2), rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-3)


def test_each_vector_of_an_array_is_judged_alone() -> None:
    """One wrong row leaves its neighbours usable."""
    rows = np.array([[1, 0], [np.nan, 0], [0, 0], [np.inf, 1]], np.float32)
    assert [bool(text) for text in validate.unusable(rows, COSINE)] == [False, True, True, True]
    assert [bool(text) for text in validate.unusable(rows, EUCLIDEAN)] == [False, True, False, True]
