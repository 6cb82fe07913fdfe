"""A file to import: what its footer says is checked before a row of it is read."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format

from vitrail.client.batches import BATCH_BYTES
from vitrail.client.models import ItemError
from vitrail.client.parquet.columns import DEFINITION
from vitrail.client.parquet.decoding import decoded
from vitrail.client.parquet.rows import Row, Rows, is_bytes, is_text, is_vector, kind_of
from vitrail.rpc.attributes import NAMES_OF_TYPES, TYPE_NAMES
from vitrail.rpc.errors import EmbeddingSpaceMismatch, InvalidArgument
from vitrail.rpc.vectors import FLOAT32
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import AttributeType

MAX_ROWS = 2000
NUMBERS = {TYPE_NAMES["integer"], TYPE_NAMES["float"]}
REQUIRED = ("id", "vector")
COLUMNS = {
    "id": (is_text, "strings"),
    "vector": (is_vector, "lists of floats"),
    "uri": (is_text, "strings"),
    "content_hash": (is_bytes, "bytes"),
    "thumbnail": (is_bytes, "bytes"),
}


class File:
    """A Parquet file of records.

    Attributes:
        rows: How many it says it has.
        definition: Of the collection that it was exported from, if it was.
        space: The embedding space of its vectors; empty where it does not say.

    Raises:
        InvalidArgument: It is no Parquet file, or its columns are not those of records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading(), pq.ParquetFile(path) as file:
            schema, self.rows = file.schema_arrow, int(file.metadata.num_rows)
        self.definition = _definition(schema)
        self.space = self.definition.space if self.definition else ""
        self._vector = _checked(schema).field("vector").type
        self._in_struct = "attributes" in schema.names and pa.types.is_struct(schema.field("attributes").type)
        self._attributes = _attributes(self._fields(schema))
        attributes = ["attributes"] if self._in_struct else self._attributes
        ours = (name for name in COLUMNS if name in schema.names and not pa.types.is_null(schema.field(name).type))
        self._columns = [*ours, *attributes]

    def check(self, collection: Collection) -> None:
        """Whether its rows can be records of a collection.

        Raises:
            EmbeddingSpaceMismatch: They are of another space.
            InvalidArgument: The dimension is another, or an attribute has another type.
        """
        if self.space and self.space != collection.space:
            where = f"the space {collection.space}" if collection.space else "no declared space"
            raise EmbeddingSpaceMismatch(
                f"is in the space {self.space}, {collection.name!r} in {where}", field="vector"
            )
        if pa.types.is_fixed_size_list(self._vector) and self._vector.list_size != collection.dimension:
            said = f"has {self._vector.list_size} dimensions, not {collection.dimension}"
            raise InvalidArgument(said, field="vector")
        for name, kind in self._attributes.items():
            fixed = collection.attributes.get(name, kind)
            if fixed != kind and not {fixed, kind} <= NUMBERS:
                said = f"is of type {NAMES_OF_TYPES[fixed]} in {collection.name!r}, not {NAMES_OF_TYPES[kind]}"
                raise InvalidArgument(said, field=f"attributes.{name}")

    def new_attributes(self, collection: Collection) -> dict[str, AttributeType.ValueType]:
        """Those that a collection does not know."""
        return {name: kind for name, kind in self._attributes.items() if name not in collection.attributes}

    def read(self, dimension: int) -> Iterator[Row | ItemError]:
        """Each of its rows, or what is wrong with it in itself.

        Raises:
            InvalidArgument: It is damaged, or cannot be held.
        """
        at_a_time = max(1, min(MAX_ROWS, BATCH_BYTES // (dimension * FLOAT32.itemsize)))
        first = 0
        with self._reading(), closing(decoded(self._path, at_a_time, self._columns)) as batches:
            for batch in batches:
                yield from Rows(batch, self._columns_of_attributes(batch), dimension, first)
                first += batch.num_rows

    def _fields(self, schema: pa.Schema) -> list[pa.Field]:
        """The columns of attributes: those of the struct, or what else there is in a file that is not of ours."""
        if self._in_struct:
            return list(schema.field("attributes").type)
        return [] if self.definition else [field for field in schema if field.name not in COLUMNS]

    def _columns_of_attributes(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        if not self._in_struct:
            return {name: batch.column(name) for name in self._attributes}
        struct = batch.column("attributes")
        columns = zip(struct.type, struct.flatten(), strict=True)
        return {field.name: column for field, column in columns if field.name in self._attributes}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What Arrow says against the bytes of a file."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # not there, or not to be read
            raise InvalidArgument(f"{self._path} cannot be read as Parquet: {error}", field="path") from error


def _definition(schema: pa.Schema) -> Collection | None:
    text = (schema.metadata or {}).get(DEFINITION)
    if text is None:
        return None
    try:
        return json_format.Parse(text, Collection(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError) as error:
        raise InvalidArgument(f"the file's definition of its collection cannot be read: {error}") from error


def _checked(schema: pa.Schema) -> pa.Schema:
    for name, count in Counter(schema.names).items():
        if count > 1:
            raise InvalidArgument("the file has two columns of this name", field=name)
    for name in REQUIRED:
        if name not in schema.names:
            raise InvalidArgument("the file has no such column", field=name)
    for name, (is_right, what) in COLUMNS.items():
        kind = schema.field(name).type if name in schema.names else pa.null()
        if not is_right(kind) and (name in REQUIRED or not pa.types.is_null(kind)):
            raise InvalidArgument(f"is a column of {kind}, not of {what}", field=name)
    return schema


def _attributes(fields: list[pa.Field]) -> dict[str, AttributeType.ValueType]:
    """The types of attributes by name; a column without any value is left out."""
    found: dict[str, AttributeType.ValueType] = {}
    for field in fields:
        if pa.types.is_null(field.type):
            continue
        kind = kind_of(field.type)
        if kind is None or field.name in found:
            said = "is there twice" if field.name in found else f"is a column of {field.type}, which none can have"
            raise InvalidArgument(said, field=f"attributes.{field.name}")
        found[field.name] = kind
    return found
