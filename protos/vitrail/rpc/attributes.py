"""Attributes as Python values, and as messages."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeAlias

from vitrail.rpc.errors import InvalidArgument
from vitrail.v1.types_pb2 import AttributeType, StringList, Value

AttributeValue: TypeAlias = str | int | float | bool | datetime | list[str]
"""A string, an integer (64 bits), a float, a boolean, a timestamp (UTC where naive), or a list of strings."""

TYPE_NAMES: dict[str, AttributeType.ValueType] = {
    "string": AttributeType.ATTRIBUTE_TYPE_STRING,
    "integer": AttributeType.ATTRIBUTE_TYPE_INTEGER,
    "float": AttributeType.ATTRIBUTE_TYPE_FLOAT,
    "boolean": AttributeType.ATTRIBUTE_TYPE_BOOLEAN,
    "timestamp": AttributeType.ATTRIBUTE_TYPE_TIMESTAMP,
    "strings": AttributeType.ATTRIBUTE_TYPE_STRINGS,
}
NAMES_OF_TYPES = {number: name for name, number in TYPE_NAMES.items()}


def to_value(name: str, value: AttributeValue) -> Value:
    """Write one attribute as a message.

    Raises:
        InvalidArgument: The value is of no type that an attribute can have; the field names it.
    """
    if isinstance(value, bool):  # before int, which it also is
        return Value(boolean_value=value)
    if isinstance(value, str):
        return Value(string_value=value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument("an integer must fit 64 bits", field=f"attributes.{name}")
        return Value(integer_value=value)
    if isinstance(value, float):
        return Value(float_value=value)
    if isinstance(value, datetime):
        message = Value()
        message.timestamp_value.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
        return message
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        items = list(value)
        if all(isinstance(item, str) for item in items):
            return Value(strings_value=StringList(values=items))
    raise InvalidArgument(
        f"{type(value).__name__} is none of string, integer, float, boolean, timestamp, list of strings",
        field=f"attributes.{name}",
    )


def from_value(value: Value) -> AttributeValue | None:
    """Read one attribute; None where the message is empty."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "integer_value":
            return value.integer_value
        case "float_value":
            return value.float_value
        case "boolean_value":
            return value.boolean_value
        case "timestamp_value":
            return value.timestamp_value.ToDatetime(tzinfo=UTC)
        case "strings_value":
            return list(value.strings_value.values)
        case _:
            return None


def from_values(fields: Mapping[str, Value]) -> dict[str, AttributeValue]:
    """Read all attributes of a record, in the order of their names."""
    values = ((name, from_value(fields[name])) for name in sorted(fields))
    return {name: value for name, value in values if value is not None}
