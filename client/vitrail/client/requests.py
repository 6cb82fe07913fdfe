"""From the caller's values to the messages that travel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast, get_args

import numpy as np
from google.protobuf.message import Message

from vitrail.client import images
from vitrail.client.batches import MESSAGE_LIMIT
from vitrail.client.images import ImageLike
from vitrail.client.models import Example, Included, IndexOptions, ItemError, Metric, Query, Record, Written
from vitrail.client.vectors import VectorLike, to_vector
from vitrail.rpc.attributes import TYPE_NAMES, AttributeValue, to_value
from vitrail.rpc.errors import InvalidArgument, ResourceExhausted, VitrailError
from vitrail.rpc.vectors import to_bytes
from vitrail.v1 import collection_pb2, record_pb2, search_pb2, types_pb2

M = TypeVar("M", bound=Message)

METRICS: dict[Metric, types_pb2.Metric.ValueType] = {
    "cosine": types_pb2.METRIC_COSINE,
    "inner_product": types_pb2.METRIC_INNER_PRODUCT,
    "euclidean": types_pb2.METRIC_EUCLIDEAN,
}
# Of the fields of IndexOptions, those that are no whole numbers.
SHARES = ("rerank_factor", "target_recall")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What a single search and a batch have in common."""

    top_k: int
    nprobe: int | None
    rerank_factor: float | None
    exact: bool
    target_recall: float | None
    filter: str | None
    min_score: float | None
    min_coverage: float
    min_seq: Written
    include: Iterable[Included]

    def fields(self) -> dict[str, Any]:
        """The fields of SearchRequest and BatchSearchRequest, which bear the same names."""
        seq, mark = (self.min_seq, 0) if isinstance(self.min_seq, int) else (self.min_seq.seq, self.min_seq.mark)
        return {
            "top_k": int32(self.top_k, "top_k"),
            "parameters": search_pb2.SearchParameters(
                nprobe=None if self.nprobe is None else int32(self.nprobe, "nprobe"),
                rerank_factor=self.rerank_factor,
                exact=self.exact,
                target_recall=self.target_recall,
            ),
            "filter": utf8(self.filter or "", "filter"),
            "min_score": self.min_score,
            "min_coverage": self.min_coverage,
            "min_seq": int64(seq, "min_seq"),
            "min_mark": mark,
            "return_fields": search_pb2.ReturnFields(**included(self.include)),
        }


def create_collection_request(
    name: str,
    embedder: str | None,
    dimension: int | None,
    metric: Metric,
    attributes: Mapping[str, str] | None,
    train_at: int,
    thumbnails: bool,
    index: IndexOptions | None,
    keep_images: bool,
) -> collection_pb2.CreateCollectionRequest:
    return collection_pb2.CreateCollectionRequest(
        name=name,
        embedder=embedder or "",
        dimension=0 if dimension is None else positive(dimension, "dimension"),
        metric=metric_value(metric),
        attributes=attribute_types(attributes or {}),
        train_at=positive(train_at, "train_at"),
        thumbnails=thumbnails,
        index=None if index is None else index_options(index),
        keep_images=keep_images,
    )


def create_version_request(
    name: str,
    embedder: str | None,
    dimension: int | None,
    metric: Metric | None,
    train_at: int | None,
    index: IndexOptions | None,
) -> collection_pb2.CreateVersionRequest:
    return collection_pb2.CreateVersionRequest(
        name=name,
        embedder=embedder or "",
        dimension=0 if dimension is None else positive(dimension, "dimension"),
        metric=None if metric is None else metric_value(metric),
        train_at=0 if train_at is None else positive(train_at, "train_at"),
        index=None if index is None else index_options(index),
    )


def metric_value(name: Metric) -> types_pb2.Metric.ValueType:
    if name not in METRICS:
        raise InvalidArgument(f"{name!r} is none of {', '.join(METRICS)}", field="metric")
    return METRICS[name]


def update_collection_request(
    name: str,
    train_at: int | None,
    thumbnails: bool | None,
    attributes: Mapping[str, str] | None,
    index: IndexOptions | None,
    keep_images: bool | None,
) -> collection_pb2.UpdateCollectionRequest:
    return collection_pb2.UpdateCollectionRequest(
        name=name,
        train_at=None if train_at is None else positive(train_at, "train_at"),
        thumbnails=thumbnails,
        attributes=attribute_types(attributes or {}),
        index=None if index is None else index_options(index),
        keep_images=keep_images,
    )


def index_options(options: IndexOptions) -> collection_pb2.IndexOptions:
    given = {name: value for name, value in asdict(options).items() if value is not None}
    whole = {name: int32(value, f"index.{name}") for name, value in given.items() if name not in SHARES}
    return collection_pb2.IndexOptions(**given | whole)


def delete_request(name: str, filter: str) -> record_pb2.DeleteRecordsRequest:
    return record_pb2.DeleteRecordsRequest(collection=name, filter=utf8(filter, "filter"))


def record_input(record: Record, space: str | None) -> record_pb2.RecordInput:
    """Write one record, its image read or encoded.

    Raises:
        VitrailError: The record is wrong in itself, cannot be read, or is larger than a message.
    """
    if record.image is not None and record.vector is not None:
        raise InvalidArgument("either an image or a vector, not both", field="image")
    message = record_pb2.RecordInput(
        id=checked_id(record.id),
        attributes=attribute_values(record.attributes),
        uri=record.uri or "",
        fills=0 if record.fills is None else int64(record.fills, "fills"),
    )
    if record.image is not None:
        message.image = images.encode(record.image)
    elif record.vector is not None:
        message.vector.CopyFrom(vector_message(record.vector, space, "vector"))
    return fitting(message, field="" if record.image is None else "image")


def record_inputs(
    records: Iterable[Record], space: str | None, errors: list[ItemError]
) -> Iterator[tuple[int, record_pb2.RecordInput]]:
    """Write records one by one as they are asked for; one that is wrong goes to `errors` instead."""
    for index, record in enumerate(records):
        try:
            yield index, record_input(record, space)
        except VitrailError as error:
            errors.append(refused(index, error, id=record.id))
        except (ValueError, TypeError) as error:  # protobuf's: not a string, not UTF-8
            errors.append(refused(index, InvalidArgument(str(error)), id=record.id))


def query_message(query: Query, space: str | None, within: str = "query.") -> search_pb2.Query:
    """Write one query.

    Args:
        query: What to look for.
        space: The embedding space its vectors were made in, if the caller says so.
        within: Where the query stands in its request, so that a wrong field bears the contract's name.

    Raises:
        VitrailError: It is not exactly one kind, cannot be read, or is larger than a message.
    """
    examples = bool(len(query.liked) or len(query.disliked))
    given = [each is not None for each in (query.image, query.text, query.vector, query.like)]
    if sum(given) + examples != 1:
        raise InvalidArgument("give one of image, text, vector, like, or liked and disliked", field=within.rstrip("."))
    if query.image is not None:
        image = images.encode(query.image, f"{within}image")
        return fitting(search_pb2.Query(image=image), f"{within}image")
    if query.text is not None:
        return search_pb2.Query(text=utf8(query.text, f"{within}text"))
    if query.vector is not None:
        return search_pb2.Query(vector=vector_message(query.vector, space, f"{within}vector"))
    if query.like is not None:
        return search_pb2.Query(record_id=checked_id(query.like, f"{within}record_id"))
    message = examples_message(query, space, f"{within}examples")
    return fitting(search_pb2.Query(examples=message), f"{within}examples")


def embed_inputs(
    images_: Iterable[ImageLike], texts: Iterable[str], errors: list[ItemError]
) -> Iterator[tuple[int, search_pb2.EmbedInput]]:
    """Write images or texts one by one as they are asked for; an image that is wrong goes to `errors` instead."""
    for index, image in enumerate(images_):
        try:
            yield index, fitting(search_pb2.EmbedInput(image=images.encode(image, "image")), "image")
        except VitrailError as error:
            errors.append(refused(index, error))
    for index, text in enumerate(texts):
        yield index, search_pb2.EmbedInput(text=utf8(text, "text"))


def query_messages(
    queries: Iterable[Query], space: str | None, errors: list[ItemError]
) -> Iterator[tuple[int, search_pb2.Query]]:
    """Write queries one by one as they are asked for; one that is wrong goes to `errors` instead."""
    for index, query in enumerate(queries):
        try:
            yield index, query_message(query, space, within="")
        except VitrailError as error:
            errors.append(refused(index, error))


def examples_message(query: Query, space: str | None, field: str) -> search_pb2.Examples:
    if not len(query.liked):
        raise InvalidArgument("at least one example must be liked", field=f"{field}.liked")
    return search_pb2.Examples(
        liked=_examples(query.liked, space, f"{field}.liked"),
        disliked=_examples(query.disliked, space, f"{field}.disliked"),
    )


def _examples(examples: Sequence[Example], space: str | None, field: str) -> list[search_pb2.Example]:
    if isinstance(examples, (str, bytes)):
        raise InvalidArgument("a list of examples, not a single one", field=field)
    return [example_message(example, space, f"{field}[{i}]") for i, example in enumerate(examples)]


def example_message(example: Example, space: str | None, field: str) -> search_pb2.Example:
    """Write one example: a string is a record's id, one dimension a vector, everything else an image."""
    if isinstance(example, str):
        return search_pb2.Example(record_id=checked_id(example, field))
    if isinstance(example, (list, tuple)) or getattr(example, "ndim", 0) == 1:
        return search_pb2.Example(vector=vector_message(cast("VectorLike", example), space, field))
    return search_pb2.Example(image=images.encode(cast("ImageLike", example), field))


def vector_message(vector: VectorLike, space: str | None, field: str) -> types_pb2.Vector:
    return types_pb2.Vector(data=to_bytes(to_vector(vector, field)), space=space or "")


def attribute_values(attributes: Mapping[str, AttributeValue]) -> dict[str, types_pb2.Value]:
    return {name: to_value(name, plain(value)) for name, value in attributes.items()}


def attribute_types(attributes: Mapping[str, str]) -> dict[str, types_pb2.AttributeType.ValueType]:
    for name, kind in attributes.items():
        if kind not in TYPE_NAMES:
            raise InvalidArgument(f"{kind!r} is none of {', '.join(TYPE_NAMES)}", field=f"attributes.{name}")
    return {name: TYPE_NAMES[kind] for name, kind in attributes.items()}


def plain(value: Any) -> Any:
    """NumPy's own scalars as Python's, since tables of attributes are full of them."""
    return value.item() if isinstance(value, np.generic) else value


def included(names: Iterable[str]) -> dict[str, bool]:
    known = get_args(Included)
    for name in names:
        if name not in known:
            raise InvalidArgument(f"{name!r} is none of {', '.join(known)}", field="include")
    return dict.fromkeys(names, True)


def checked_id(value: str, field: str = "id") -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"an id is a string that is not empty, not {value!r}", field=field)
    return utf8(value, field)


def utf8(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{value!r} is not UTF-8", field=field) from error
    return value


def fitting(message: M, field: str) -> M:
    """Refuse what is larger than a message even when it travels alone."""
    if message.ByteSize() > MESSAGE_LIMIT:
        raise ResourceExhausted(f"{message.ByteSize():,} bytes, and a message holds {MESSAGE_LIMIT:,}", field=field)
    return message


def refused(index: int, error: VitrailError, id: str = "") -> ItemError:
    """What the SDK refuses of a batch, as the server would report it."""
    return ItemError(index, str(id), error.code, error.field, error.message)


def int32(value: int, field: str) -> int:
    return _fitting(value, 32, field)


def int64(value: int, field: str) -> int:
    return _fitting(value, 64, field)


def _fitting(value: int, bits: int, field: str) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise InvalidArgument(f"{value} does not fit {bits} bits", field=field)
    return value


def positive(value: int, field: str) -> int:
    if value < 1:
        raise InvalidArgument(f"{value} is not at least 1", field=field)
    return int32(value, field)
