"""From columns of a file to the records that travel.

A file may come from anyone. Strings and bytes come here as dictionaries (see `decoding`), and a value is copied out of
one only once its size was looked at.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vitrail.client.models import ItemError
from vitrail.client.requests import checked_id, refused
from vitrail.client.vectors import to_float32
from vitrail.rpc.attributes import TYPE_NAMES
from vitrail.rpc.errors import InvalidArgument, VitrailError
from vitrail.rpc.vectors import to_bytes
from vitrail.v1.record_pb2 import RecordInput
from vitrail.v1.types_pb2 import AttributeType, StringList, Value

MAX_VALUE_BYTES = 65_536
"""The largest value of any kind that a server takes, and the largest attributes in all."""

Read: TypeAlias = Callable[[int], Any]
"""Gives the value of a row, None where there is none; raises ValueError where it is wrong in itself."""


class Row(NamedTuple):
    """A record without its vector, the vector, and its place in the file."""

    place: int
    record: RecordInput
    vector: bytes


def kind_of(arrow: pa.DataType) -> AttributeType.ValueType | None:
    """The type of attributes that a column can be; None where it can be none."""
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if _is_text(arrow):
        return TYPE_NAMES["string"]
    if pa.types.is_integer(arrow) and arrow != pa.uint64():
        return TYPE_NAMES["integer"]
    if pa.types.is_floating(arrow):
        return TYPE_NAMES["float"]
    if pa.types.is_boolean(arrow):
        return TYPE_NAMES["boolean"]
    if pa.types.is_timestamp(arrow):
        return TYPE_NAMES["timestamp"]
    if _is_list(arrow) and kind_of(arrow.value_type) == TYPE_NAMES["string"]:
        return TYPE_NAMES["strings"]
    return None


def is_vector(arrow: pa.DataType) -> bool:
    return (_is_list(arrow) or pa.types.is_fixed_size_list(arrow)) and pa.types.is_floating(arrow.value_type)


def is_text(arrow: pa.DataType) -> bool:
    return kind_of(arrow) == TYPE_NAMES["string"]


def is_bytes(arrow: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if pa.types.is_fixed_size_binary(arrow):
        return arrow.byte_width <= MAX_VALUE_BYTES  # these come as they are
    return pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow)


class Rows:
    """Some rows of a file.

    Args:
        batch: With the columns `id` and `vector`, and of `uri`, `content_hash`, `thumbnail` those that there are.
        attributes: The columns of attributes by name.
        dimension: Of the vectors.
        first: The place of the first of them in the file.
    """

    def __init__(self, batch: pa.RecordBatch, attributes: dict[str, pa.Array], dimension: int, first: int) -> None:
        self._places = range(first, first + batch.num_rows)
        self._id = _texts(batch.column("id"))
        self._others = {
            name: read(batch.column(name))
            for name, read in (("uri", _texts), ("content_hash", _bytes), ("thumbnail", _bytes))
            if name in batch.schema.names
        }
        self._attributes = {name: _values(column) for name, column in attributes.items()}
        self._vectors, self._has_vector = _vectors(batch.column("vector"), dimension)

    def __iter__(self) -> Iterator[Row | ItemError]:
        """Each row, or what is wrong with it in itself."""
        for row, place in enumerate(self._places):
            id = ""
            try:
                id = checked_id(_named("id", self._id, row) or "")
                outcome: Row | ItemError = Row(place, self._record(row, id), to_bytes(self._vectors[row]))
            except VitrailError as error:
                outcome = refused(place, error, id)
            yield outcome

    def _record(self, row: int, id: str) -> RecordInput:
        if not self._has_vector[row]:
            raise InvalidArgument(f"is no vector of {self._vectors.shape[1]} dimensions", field="vector")
        record = RecordInput(id=id)
        for name, read in self._others.items():
            value = _named(name, read, row)
            if value is not None:
                setattr(record, name, value)
        size = 0
        for name, read in self._attributes.items():
            value = _named(f"attributes.{name}", read, row)
            if value is not None:
                record.attributes[name].CopyFrom(value)
                size += value.ByteSize()
            if size > MAX_VALUE_BYTES:
                raise InvalidArgument(f"are larger than {MAX_VALUE_BYTES:,} bytes", field="attributes")
        return record


def _named(field: str, read: Read, row: int) -> Any:
    try:
        return read(row)
    except (ValueError, IndexError) as error:  # IndexError: it points outside its dictionary
        raise InvalidArgument(str(error), field=field) from error


def _vectors(column: pa.Array, dimension: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors [n, d], and which rows have one; a number that is null becomes NaN, which the server refuses."""
    right = pc.fill_null(pc.equal(pc.list_value_length(column), dimension), False)
    right = pc.and_(right, column.is_valid())
    usable = right.to_numpy(zero_copy_only=False)
    numbers = to_float32(column.filter(right).flatten().to_numpy(zero_copy_only=False)).reshape(-1, dimension)
    if usable.all():
        return numbers, usable
    vectors = np.zeros((len(column), dimension), np.float32)
    vectors[usable] = numbers
    return vectors, usable


def _values(column: pa.Array) -> Read:
    """The values of an attribute as messages."""
    kind = kind_of(column.type)
    if kind == TYPE_NAMES["strings"]:
        return _lists(column)
    if kind == TYPE_NAMES["string"]:
        return _each(_texts(column), lambda text: Value(string_value=text))
    plain, make = {
        TYPE_NAMES["integer"]: (pa.int64(), lambda number: Value(integer_value=number)),
        TYPE_NAMES["float"]: (pa.float64(), lambda number: Value(float_value=number)),
        TYPE_NAMES["boolean"]: (pa.bool_(), lambda truth: Value(boolean_value=truth)),
        TYPE_NAMES["timestamp"]: (pa.int64(), _moment),
    }[kind]
    if pa.types.is_timestamp(column.type):
        # From nanoseconds, what is below a microsecond is left out; to seconds and milliseconds, zeros are added.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=column.type.unit != "ns")
    return _each(column.cast(plain).to_pylist().__getitem__, make)


def _each(read: Read, make: Callable[[Any], Value]) -> Read:
    def value(row: int) -> Value | None:
        found = read(row)
        return None if found is None else make(found)

    return value


def _moment(microseconds: int) -> Value:
    value = Value()
    value.timestamp_value.seconds, rest = divmod(microseconds, 1_000_000)
    value.timestamp_value.nanos = rest * 1000
    return value


def _lists(column: pa.Array) -> Read:
    def value(row: int) -> Value | None:
        if not column[row].is_valid:
            return None
        items: list[str] = []
        size = 0
        for item in column[row].values:
            text = _text(item)
            if text is None:
                raise ValueError("an item is null")
            items.append(text)
            size += len(text) + 2  # a tag and a length
            if size > MAX_VALUE_BYTES:
                raise ValueError(f"is larger than {MAX_VALUE_BYTES:,} bytes")
        return Value(strings_value=StringList(values=items))

    return value


def _texts(column: pa.Array) -> Read:
    return lambda row: _text(column[row])


def _bytes(column: pa.Array) -> Read:
    def value(row: int) -> bytes | None:
        data = _data(column[row])
        return None if data is None else data.to_pybytes()

    return value


def _text(scalar: pa.Scalar) -> str | None:
    data = _data(scalar)
    return None if data is None else str(data, "utf-8")


def _data(scalar: pa.Scalar) -> pa.Buffer | None:
    """The bytes of a string, not copied."""
    if pa.types.is_dictionary(scalar.type):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    data = scalar.as_buffer()
    if data.size > MAX_VALUE_BYTES:
        raise ValueError(f"{data.size:,} bytes are more than {MAX_VALUE_BYTES:,}")
    return data


def _is_text(arrow: pa.DataType) -> bool:
    return pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow)


def _is_list(arrow: pa.DataType) -> bool:
    return pa.types.is_list(arrow) or pa.types.is_large_list(arrow)
