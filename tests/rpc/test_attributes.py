from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.rpc.attributes import NAMES_OF_TYPES, TYPE_NAMES, from_value, from_values, to_value
from vitrail.rpc.errors import InvalidArgument
from vitrail.v1.types_pb2 import AttributeType, Value

NOON = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("hat", "string_value", "hat"),
        ("", "string_value", ""),
        (7, "integer_value", 7),
        (0, "integer_value", 0),
        (-(2**63), "integer_value", -(2**63)),
        (2**63 - 1, "integer_value", 2**63 - 1),
        (7.0, "float_value", 7.0),
        (float("-inf"), "float_value", float("-inf")),
        # A boolean is an int to Python, and none to us.
        (True, "boolean_value", True),
        (False, "boolean_value", False),
        (NOON, "timestamp_value", NOON),
        # A time that names no zone is taken as UTC; one of another zone is the same moment.
        (NOON.replace(tzinfo=None), "timestamp_value", NOON),
        (NOON.astimezone(timezone(timedelta(hours=2))), "timestamp_value", NOON),
        (datetime(1899, 12, 31, tzinfo=UTC), "timestamp_value", datetime(1899, 12, 31, tzinfo=UTC)),
        (["a", "b", "a"], "strings_value", ["a", "b", "a"]),
        (("a", "b"), "strings_value", ["a", "b"]),
        ([], "strings_value", []),
    ],
)
def test_attributes_come_back_as_they_were(value: Any, kind: str, expected: Any) -> None:
    """Every type there is, over the wire."""
    message = Value.FromString(to_value("x", value).SerializeToString())
    assert message.WhichOneof("kind") == kind
    found = from_value(message)
    assert found == expected
    assert type(found) is type(expected)


VALUES = (
    st.text()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2))
    | st.lists(st.text())
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_any_attributes(values: dict[str, Any]) -> None:
    """All of a record's attributes come back, in the order of their names."""
    found = from_values({name: to_value(name, value) for name, value in values.items()})
    assert found == values
    assert list(found) == sorted(values)
    assert [type(value) for value in found.values()] == [type(values[name]) for name in found]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30, b"bytes", None, ["a", 1], {"a": 1}, 1j, object()])
def test_what_is_no_attribute_is_refused_by_name(value: Any) -> None:
    """The field names the attribute."""
    with pytest.raises(InvalidArgument) as caught:
        to_value("price", value)
    assert caught.value.field == "attributes.price"


def test_an_empty_value_is_none() -> None:
    """A message of a later version, whose kind is not known here, is left out."""
    assert from_value(Value()) is None
    assert from_values({"a": Value(), "b": Value(integer_value=1)}) == {"b": 1}


def test_every_type_has_its_name() -> None:
    """Those that a schema can declare, there and back."""
    assert set(TYPE_NAMES.values()) == set(AttributeType.values()) - {0}
    assert {NAMES_OF_TYPES[kind]: kind for kind in TYPE_NAMES.values()} == TYPE_NAMES
