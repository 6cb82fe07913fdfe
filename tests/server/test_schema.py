"""The schema as tables: "n:integer" is a type, "n=1" a value."""

import json

import pytest

from vitrail.rpc.attributes import NAMES_OF_TYPES, TYPE_NAMES, to_value
from vitrail.server.schema import Schema, SchemaError
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Attributes, Value


def types(text: str) -> Collection:
    return Collection(attributes={name: TYPE_NAMES[kind] for name, kind in (word.split(":") for word in text.split())})


def values(text: str) -> dict[str, Value]:
    return {name: to_value(name, json.loads(value)) for name, value in (word.split("=") for word in text.split())}


def written(collection: Collection) -> str:
    return " ".join(f"{name}:{NAMES_OF_TYPES[kind]}" for name, kind in sorted(collection.attributes.items()))


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        # The first value of a name fixes its type.
        ("", "n=1", "n:integer"),
        ("", "n=1.5", "n:float"),
        ("", "n=true", "n:boolean"),
        ("", 'n="x" m=["x"]', "m:strings n:string"),
        ("", "", ""),
        # What is of the type changes nothing.
        ("n:integer", "n=2", "n:integer"),
        ("n:boolean", "n=false", "n:boolean"),
        ("n:integer m:string", "", "m:string n:integer"),
        # An integer widens to a float; a float takes integers, and stays one.
        ("n:integer", "n=1.5", "n:float"),
        ("n:float", "n=1", "n:float"),
        ("n:integer", "n=1.5 m=1", "m:integer n:float"),
    ],
)
def test_what_a_schema_admits(before: str, given: str, after: str) -> None:
    """Types are declared, or fixed by the first value, and widen where nothing is lost."""
    collection = types(before)
    schema = Schema(collection)
    schema.admit(values(given))
    assert written(collection) == after
    assert schema.changed == (written(types(before)) != after)


@pytest.mark.parametrize(
    ("before", "given", "field", "message"),
    [
        ("n:integer", 'n="1"', "attributes.n", "is of type integer in this collection, not string"),
        ("n:string", "n=1", "attributes.n", "is of type string in this collection, not integer"),
        ("n:integer", "n=true", "attributes.n", "is of type integer in this collection, not boolean"),
        ("n:boolean", "n=1", "attributes.n", "is of type boolean in this collection, not integer"),
        ("n:float", "n=true", "attributes.n", "is of type float in this collection, not boolean"),
        ("n:string", 'n=["x"]', "attributes.n", "is of type string in this collection, not strings"),
        ("n:timestamp", 'n="2026"', "attributes.n", "is of type timestamp in this collection, not string"),
        # One name that contradicts keeps out the others of its record.
        ("n:integer m:integer", 'm=1.5 new=1 n="x"', "attributes.n", "is of type integer"),
    ],
)
def test_what_a_schema_refuses(before: str, given: str, field: str, message: str) -> None:
    """The error names the attribute and both types, and the schema is as it was."""
    collection = types(before)
    schema = Schema(collection)
    with pytest.raises(SchemaError, match=message) as caught:
        schema.admit(values(given))
    assert caught.value.field == field
    assert collection == types(before)
    assert not schema.changed


def test_the_same_attributes_give_the_same_bytes() -> None:
    """Whatever the order in which they came, since shards compare them."""
    names = [f"n{n}" for n in range(20)]
    one = Schema.serialize({name: Value(string_value=name) for name in names})
    other = Schema.serialize({name: Value(string_value=name) for name in reversed(names)})
    assert one == other
    assert Attributes.FromString(one).fields["n3"].string_value == "n3"
