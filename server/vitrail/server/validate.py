"""Requests are checked here, before anything costs. Every error names the field that is wrong."""

import re
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc import vectors
from vitrail.rpc.attributes import NAMES_OF_TYPES
from vitrail.rpc.errors import EmbeddingSpaceMismatch, InvalidArgument
from vitrail.server import filters
from vitrail.server.decode import ImageLimits, check_jpeg
from vitrail.server.fanout import Parameters
from vitrail.v1.collection_pb2 import Collection, IndexOptions
from vitrail.v1.record_pb2 import RecordInput
from vitrail.v1.search_pb2 import BatchSearchRequest, SearchRequest
from vitrail.v1.types_pb2 import Metric, Value, Vector, VectorArray

DEFAULT_TOP_K = 10
MAX_TOP_K = 1000
MAX_QUERIES = 1000
MAX_HITS = 100_000
MAX_EXAMPLES = 100
MAX_RECORDS = 10_000
MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 2000
MAX_URI_BYTES = 4096
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTES_BYTES = 65_536
CONTENT_HASH_BYTES = 32
# So that a page of 200 records with all that they may hold, vectors and attributes too, fits a message.
THUMBNAIL_LIMITS = ImageLimits(bytes=65_536, pixels=512 * 512, side=512)
MIN_DIMENSION, MAX_DIMENSION = 2, 4096
# Fewer points than this a list, and lists are noise (39 a list, and one list at least).
MIN_TRAIN_AT = 39
DEFAULT_TRAIN_AT = 10_000
MAX_LISTS = 65_536
MAX_RERANK_FACTOR = 1000.0
MAX_CODE_BYTES = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

# Squared lengths within these keep their precision in float32.
SMALL, LARGE = 1e-30, 1e30

N = TypeVar("N", int, float)


def parameters(request: SearchRequest | BatchSearchRequest, collection: Collection, top_k: int) -> Parameters:
    """What a search asks of the shards.

    Raises:
        InvalidArgument: A parameter or the filter is wrong, or parameters exclude each other.
    """
    given = request.parameters
    nprobe = _within(given.nprobe, 1, MAX_LISTS, "parameters.nprobe") if given.HasField("nprobe") else 0
    factor = 0.0
    if given.HasField("rerank_factor"):
        factor = _within(given.rerank_factor, 1.0, MAX_RERANK_FACTOR, "parameters.rerank_factor")
    target = 0.0
    if given.HasField("target_recall"):
        target = target_recall(given.target_recall, "parameters.target_recall")
        if nprobe or factor or given.exact:
            said = "give either a target recall, or nprobe and rerank factor, or exact"
            raise InvalidArgument(said, field="parameters.target_recall")
    return Parameters(
        collection_uid=collection.uid,
        space=collection.space,
        top_k=top_k,
        nprobe=nprobe,
        rerank_factor=factor,
        exact=given.exact,
        attributes=request.return_fields.attributes,
        target_recall=target,
        filter=filters.serialized(request.filter, collection.attributes) if request.filter else b"",
    )


def target_recall(value: float, field: str) -> float:
    if not 0 < value < 1:  # also true for NaN
        raise InvalidArgument(f"must be above 0 and below 1, not {value:,}", field=field)
    return value


def top_k(request: SearchRequest | BatchSearchRequest) -> int:
    """How many hits are wanted: 1 to 1,000."""
    if not request.HasField("top_k"):
        return DEFAULT_TOP_K
    return _within(request.top_k, 1, MAX_TOP_K, "top_k")


def min_seq(request: SearchRequest | BatchSearchRequest) -> int:
    if request.min_seq < 0:
        raise InvalidArgument("must not be negative", field="min_seq")
    return request.min_seq


def min_mark(request: SearchRequest | BatchSearchRequest) -> int:
    if request.min_mark and not request.min_seq:
        raise InvalidArgument("goes with min_seq", field="min_mark")
    return request.min_mark


def min_coverage(request: SearchRequest | BatchSearchRequest) -> float:
    return _within(request.min_coverage, 0.0, 1.0, "min_coverage")


def min_score(request: SearchRequest | BatchSearchRequest) -> float:
    """The lowest score that a hit may have, minus infinity where none was given."""
    if not request.HasField("min_score"):
        return -np.inf
    if np.isnan(request.min_score):
        raise InvalidArgument("is not a number", field="min_score")
    return request.min_score


def batch_size(queries: int, k: int, field: str) -> None:
    """Bound what one batch can ask for."""
    _within(queries, 1, MAX_QUERIES, field)
    if queries * k > MAX_HITS:
        raise InvalidArgument(f"{queries} queries of {k} hits are more than {MAX_HITS:,} hits", field="top_k")


def examples(count: int, field: str) -> None:
    _within(count, 1, MAX_EXAMPLES, field)


def vector(message: Vector, collection: Collection, field: str) -> NDArray[np.float32]:
    """The components of one vector, float32 [d], checked against its collection."""
    check_space(message.space, collection, field)
    if message.data and message.values:
        raise InvalidArgument("give either data or values, not both", field=field)
    if message.data:
        if len(message.data) % vectors.FLOAT32.itemsize:
            raise InvalidArgument(f"{len(message.data)} bytes are not a number of float32", field=field)
        found = np.frombuffer(message.data, vectors.FLOAT32)
    else:
        found = np.fromiter(message.values, np.float32, len(message.values))
    if len(found) != collection.dimension:
        raise InvalidArgument(f"has {len(found)} dimensions, not {collection.dimension}", field=field)
    # Above zero and finite: no component is NaN or infinite, and not all are zero. The usual case, in 1 us, not 10.
    if not 0 < np.vdot(found, found) < np.inf and (wrong := unusable(found[np.newaxis], collection)[0]):
        raise InvalidArgument(wrong, field=field)
    return found


def vector_array(message: VectorArray, collection: Collection, field: str) -> NDArray[np.float32]:
    """The vectors of an array, float32 [n, d]; whether each can be used is for `unusable` to say."""
    check_space(message.space, collection, field)
    if message.dimension != collection.dimension:
        raise InvalidArgument(f"has {message.dimension} dimensions, not {collection.dimension}", field=field)
    try:
        return vectors.from_bytes(message.data, message.dimension)
    except ValueError as error:
        raise InvalidArgument(str(error), field=field) from error


def unusable(rows: NDArray[np.float32], collection: Collection) -> list[str]:
    """For each vector of float32 [n, d] what is wrong with it, or an empty string."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", rows, rows)
    if np.isfinite(squares).all() and squares.all():  # no component is NaN or infinite, no vector zero: the usual case
        return [""] * len(rows)
    wrong = np.where(np.isfinite(rows).all(axis=1), "", "has components that are not finite")
    if collection.metric == Metric.METRIC_COSINE:
        wrong = np.where((wrong == "") & ~rows.any(axis=1), "is zero, which has no direction", wrong)
    return [str(text) for text in wrong]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors float32 [n, d], none of them zero, at length 1."""
    with np.errstate(over="ignore"):
        squares = np.einsum("nd,nd->n", rows, rows)
    if (squares < SMALL).any() or (squares > LARGE).any():
        # Scaled first, so that neither the squares of large components overflow nor those of small ones vanish.
        return unit(rows / np.abs(rows).max(axis=1, keepdims=True))
    found: NDArray[np.float32] = rows / np.sqrt(squares)[:, np.newaxis]
    return found


def unit_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector float32 [d], not zero, at length 1; for one alone three times as fast as `unit`."""
    square = np.vdot(vector, vector)
    found: NDArray[np.float32] = vector / np.sqrt(square) if SMALL <= square <= LARGE else unit(vector[np.newaxis])[0]
    return found


def check_space(space: str, collection: Collection, field: str) -> None:
    """A vector that declares its embedding space must declare the collection's."""
    if space and space != collection.space:
        where = f"the space {collection.space}" if collection.space else "no declared space"
        raise EmbeddingSpaceMismatch(f"is in the space {space}, {collection.name!r} in {where}", field=field)


def record_id(value: str, field: str) -> None:
    if not value or len(value.encode()) > MAX_ID_BYTES:
        raise InvalidArgument(f"must have 1 to {MAX_ID_BYTES} bytes", field=field)


def text(value: str, field: str) -> None:
    """Bound what is to be embedded."""
    if not value.strip():
        raise InvalidArgument("empty: no words", field=field)
    if len(value.encode()) > MAX_TEXT_BYTES:
        raise InvalidArgument(f"must have at most {MAX_TEXT_BYTES:,} bytes", field=field)


def uri(value: str, field: str) -> None:
    if len(value.encode()) > MAX_URI_BYTES:
        raise InvalidArgument(f"must have at most {MAX_URI_BYTES} bytes", field=field)


def attributes(values: Mapping[str, Value], field: str) -> None:
    """Bound names, number and size of a record's attributes."""
    if len(values) > MAX_ATTRIBUTES:
        raise InvalidArgument(f"{len(values)} attributes are more than {MAX_ATTRIBUTES}", field=field)
    for name, value in values.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidArgument("a name has letters, digits and _, at most 64", field=f"{field}.{name}")
        if value.WhichOneof("kind") is None:
            raise InvalidArgument("has no value", field=f"{field}.{name}")
    if sum(len(name) + value.ByteSize() for name, value in values.items()) > MAX_ATTRIBUTES_BYTES:
        raise InvalidArgument(f"are larger than {MAX_ATTRIBUTES_BYTES:,} bytes", field=field)


def origin(record: RecordInput, *, has_vector: bool) -> None:
    """Check what a record says of the image that its vector was made of."""
    for field in ("content_hash", "thumbnail"):
        if getattr(record, field) and not has_vector:
            raise InvalidArgument("is for records that come with their vector", field=field)
    if record.content_hash and len(record.content_hash) != CONTENT_HASH_BYTES:
        said = f"has {len(record.content_hash)} bytes, not the {CONTENT_HASH_BYTES} of a SHA-256"
        raise InvalidArgument(said, field="content_hash")
    if record.thumbnail:
        check_jpeg(record.thumbnail, THUMBNAIL_LIMITS, field="thumbnail")


def collection_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidArgument("must have 1 to 128 letters, digits, dots, dashes and _", field="name")


def attribute_types(types: Mapping[str, int]) -> None:
    """Check the names and types of a declared schema."""
    for name, kind in types.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidArgument("a name has letters, digits and _, at most 64", field=f"attributes.{name}")
        if kind not in NAMES_OF_TYPES:
            raise InvalidArgument("has no type, or one that is not known here", field=f"attributes.{name}")


def metric(value: Metric.ValueType) -> Metric.ValueType:
    if value not in Metric.values():
        raise InvalidArgument(f"{value} is not known here", field="metric")
    return value


def dimension(value: int) -> int:
    return _within(value, MIN_DIMENSION, MAX_DIMENSION, "dimension")


def train_at(value: int) -> int:
    return _within(value, MIN_TRAIN_AT, 2**31 - 1, "train_at")


def index_options(options: IndexOptions, dimension: int) -> None:
    """Check what a collection says of its trained index."""
    bounds: dict[str, tuple[float, float]] = {
        "components": (MIN_DIMENSION, dimension),
        "lists": (1, MAX_LISTS),
        "code_bytes": (1, MAX_CODE_BYTES),
        "nprobe": (1, MAX_LISTS),
        "rerank_factor": (1.0, MAX_RERANK_FACTOR),
    }
    for descriptor, value in options.ListFields():
        if descriptor.name in bounds:
            _within(value, *bounds[descriptor.name], f"index.{descriptor.name}")
    if options.HasField("bits") and options.bits not in (4, 8):
        raise InvalidArgument(f"must be 4 or 8, not {options.bits}", field="index.bits")
    if options.HasField("target_recall"):
        target_recall(options.target_recall, "index.target_recall")


def page_size(value: int) -> int:
    return _within(value, 1, 1000, "page_size") if value else 100


def fill_size(value: int) -> int:
    return _within(value, 1, 100, "page_size") if value else 32


def _within(value: N, low: N, high: N, field: str) -> N:
    if not low <= value <= high:  # also false for NaN
        raise InvalidArgument(f"must be from {low:,} to {high:,}, not {value:,}", field=field)
    return value
