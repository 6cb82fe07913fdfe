"""From the records of a collection to columns."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from vitrail.rpc.attributes import TYPE_NAMES
from vitrail.rpc.errors import FailedPrecondition
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.record_pb2 import Record
from vitrail.v1.types_pb2 import AttributeType, Value

DEFINITION = b"vitrail.collection"
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1


class Kind(NamedTuple):
    """How the values of a type of attributes are kept, by the name of their field in `Value`."""

    arrow: pa.DataType
    reads: dict[str, Callable[[Value], Any]]


def microseconds(moment: Timestamp) -> int:
    """Rounded down; what is too far away is the farthest there is."""
    return max(MIN_INTEGER, min(moment.seconds * 1_000_000 + moment.nanos // 1000, MAX_INTEGER))


TIMESTAMP = pa.timestamp("us", tz="UTC")
KINDS: dict[AttributeType.ValueType, Kind] = {
    TYPE_NAMES["string"]: Kind(pa.string(), {"string_value": lambda value: value.string_value}),
    TYPE_NAMES["integer"]: Kind(pa.int64(), {"integer_value": lambda value: value.integer_value}),
    TYPE_NAMES["float"]: Kind(
        pa.float64(),
        {
            "float_value": lambda value: value.float_value,
            "integer_value": lambda value: float(value.integer_value),
        },
    ),
    TYPE_NAMES["boolean"]: Kind(pa.bool_(), {"boolean_value": lambda value: value.boolean_value}),
    TYPE_NAMES["timestamp"]: Kind(TIMESTAMP, {"timestamp_value": lambda value: microseconds(value.timestamp_value)}),
    TYPE_NAMES["strings"]: Kind(
        pa.list_(pa.string()), {"strings_value": lambda value: list(value.strings_value.values)}
    ),
}


def schema_of(collection: Collection) -> pa.Schema:
    """The columns of a collection's file."""
    attributes = [pa.field(name, KINDS[kind].arrow) for name, kind in sorted(collection.attributes.items())]
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), collection.dimension), nullable=False),
        *([pa.field("attributes", pa.struct(attributes), nullable=False)] if attributes else []),
        pa.field("uri", pa.string()),
        pa.field("content_hash", pa.binary(32)),
        pa.field("thumbnail", pa.binary()),
        pa.field("update_time", TIMESTAMP, nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
    ]
    return pa.schema(fields, {DEFINITION: json_format.MessageToJson(collection, indent=None)})


def columns_of(records: Sequence[Record], collection: Collection, schema: pa.Schema) -> pa.RecordBatch:
    """Records as columns.

    Raises:
        FailedPrecondition: A record does not fit the collection's definition, which was read before it.
    """
    columns = {
        "id": [record.id for record in records],
        "vector": _vectors(records, collection.dimension),
        "uri": [record.uri or None for record in records],
        "content_hash": [record.content_hash or None for record in records],
        "thumbnail": [record.thumbnail or None for record in records],
        "update_time": [microseconds(record.update_time) for record in records],
        "seq": [record.seq for record in records],
    }
    _check_names(records, collection)
    if collection.attributes:
        attributes = schema.field("attributes").type
        cells = [_cells(records, field.name, collection.attributes[field.name]) for field in attributes]
        columns["attributes"] = pa.StructArray.from_arrays(cells, fields=list(attributes))
    return pa.record_batch([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _vectors(records: Sequence[Record], dimension: int) -> pa.Array:
    for record in records:
        if record.pending:
            raise FailedPrecondition(f"record {record.id!r} has no vector yet in this version: fill it first")
        if len(record.vector.data) != dimension * FLOAT32.itemsize:
            raise FailedPrecondition(f"record {record.id!r} has no vector of {dimension} dimensions: export it again")
    data = pa.py_buffer(b"".join(record.vector.data for record in records))
    numbers = pa.Array.from_buffers(pa.float32(), len(records) * dimension, [None, data])
    return pa.FixedSizeListArray.from_arrays(numbers, type=pa.list_(pa.float32(), dimension))


def _check_names(records: Sequence[Record], collection: Collection) -> None:
    for name in set(chain.from_iterable(record.attributes for record in records)):
        if name not in collection.attributes:
            raise _changed(name)


def _cells(records: Sequence[Record], name: str, kind: AttributeType.ValueType) -> pa.Array:
    """One attribute of all records."""
    reads = KINDS[kind].reads

    def cell(record: Record) -> Any:
        if name not in record.attributes:
            return None
        value = record.attributes[name]
        read = reads.get(str(value.WhichOneof("kind")))
        if read is None:
            raise _changed(name)
        return read(value)

    return pa.array(map(cell, records), KINDS[kind].arrow)


def _changed(name: str) -> FailedPrecondition:
    return FailedPrecondition("was added or widened meanwhile: export it again", field=f"attributes.{name}")
