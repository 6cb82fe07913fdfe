"""The schema of a collection's attributes: a type is declared, or fixed by the first value of its name."""

from collections.abc import Mapping

from vitrail.rpc.attributes import NAMES_OF_TYPES
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Attributes, AttributeType, Value

INTEGER, FLOAT = AttributeType.ATTRIBUTE_TYPE_INTEGER, AttributeType.ATTRIBUTE_TYPE_FLOAT
TYPES: dict[str | None, AttributeType.ValueType] = {
    "string_value": AttributeType.ATTRIBUTE_TYPE_STRING,
    "integer_value": INTEGER,
    "float_value": FLOAT,
    "boolean_value": AttributeType.ATTRIBUTE_TYPE_BOOLEAN,
    "timestamp_value": AttributeType.ATTRIBUTE_TYPE_TIMESTAMP,
    "strings_value": AttributeType.ATTRIBUTE_TYPE_STRINGS,
}


class SchemaError(Exception):
    """A record whose attributes contradict the schema; `field` names the attribute."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Schema:
    """Widens a collection's schema, in place, by what it admits. `changed` tells whether it did."""

    def __init__(self, collection: Collection) -> None:
        self.changed = False
        self._types = collection.attributes

    def admit(self, attributes: Mapping[str, Value]) -> None:
        """Take the attributes of one record.

        Raises:
            SchemaError: One is of another type than its name has; the schema is as it was.
        """
        new: dict[str, AttributeType.ValueType] = {}
        for name, value in attributes.items():
            given = TYPES[value.WhichOneof("kind")]
            fixed = self._types.get(name)
            if fixed is None or (fixed == INTEGER and given == FLOAT):
                new[name] = given
            elif given != fixed and not (fixed == FLOAT and given == INTEGER):
                said = f"is of type {NAMES_OF_TYPES[fixed]} in this collection, not {NAMES_OF_TYPES[given]}"
                raise SchemaError(f"attributes.{name}", said)
        for name, kind in new.items():
            self._types[name] = kind
            self.changed = True

    @staticmethod
    def serialize(attributes: Mapping[str, Value]) -> bytes:
        """The same attributes always give the same bytes."""
        return Attributes(fields=attributes).SerializeToString(deterministic=True)
