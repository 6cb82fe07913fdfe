"""Filters as tables: the text, and the message written shortly, as in "and(n = 1, not(s ^ 'a'))"."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.rpc.attributes import TYPE_NAMES, from_value
from vitrail.rpc.errors import InvalidArgument
from vitrail.server import filters
from vitrail.v1.filter_pb2 import ComparisonOperator, Filter
from vitrail.v1.shard_pb2 import SearchBatchRequest, SearchGroup

SCHEMA = {
    "n": TYPE_NAMES["integer"],
    "price": TYPE_NAMES["float"],
    "s": TYPE_NAMES["string"],
    "in_stock": TYPE_NAMES["boolean"],
    "at": TYPE_NAMES["timestamp"],
    "tags": TYPE_NAMES["strings"],
    "order": TYPE_NAMES["integer"],
    "Timestamp": TYPE_NAMES["timestamp"],
    "in": TYPE_NAMES["integer"],
}
SYMBOLS = {
    ComparisonOperator.COMPARISON_OPERATOR_EQUAL: "=",
    ComparisonOperator.COMPARISON_OPERATOR_LESS: "<",
    ComparisonOperator.COMPARISON_OPERATOR_LESS_OR_EQUAL: "<=",
    ComparisonOperator.COMPARISON_OPERATOR_GREATER: ">",
    ComparisonOperator.COMPARISON_OPERATOR_GREATER_OR_EQUAL: ">=",
}
PATIENCE = 5.0


def short(message: Filter) -> str:
    """The message as one line. Values are written as Python writes them, times as ISO-8601."""
    match message.WhichOneof("condition"):
        case "comparison":
            one = message.comparison
            return f"{one.attribute} {SYMBOLS[one.operator]} {written(from_value(one.value))}"
        case "membership":
            values = ", ".join(written(from_value(value)) for value in message.membership.values)
            return f"{message.membership.attribute} in [{values}]"
        case "prefix":
            return f"{message.prefix.attribute} ^ {message.prefix.prefix!r}"
        case "contains":
            return f"{message.contains.attribute} has {message.contains.item!r}"
        case "is_null":
            return f"{message.is_null} is null"
        case "conjunction":
            return f"and({', '.join(map(short, message.conjunction.filters))})"
        case "disjunction":
            return f"or({', '.join(map(short, message.disjunction.filters))})"
        case "negation":
            return f"not({short(message.negation)})"
        case nothing:
            return str(nothing)


def written(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


GOOD = [
    # Comparisons, with the value on either side.
    ("n = 1", "n = 1"),
    ("n != 1", "not(n = 1)"),
    ("n <> 1", "not(n = 1)"),
    ("price < 80", "price < 80"),
    ("price <= 80.5", "price <= 80.5"),
    ("price > -1e-3", "price > -0.001"),
    ("price >= - 2", "price >= -2"),
    ("5 < price", "price > 5"),
    ("5 <= price", "price >= 5"),
    ("5 > price", "price < 5"),
    ("5 >= price", "price <= 5"),
    ("5 = price", "price = 5"),
    ("5 != price", "not(price = 5)"),
    ("n<5", "n < 5"),
    ("\tn\n=\r\n1 ", "n = 1"),
    ("n = (5)", "n = 5"),
    # Numbers are what they look like, whichever kind the attribute is.
    ("n < 2.5", "n < 2.5"),
    ("n = 2.0", "n = 2.0"),
    ("n > 9223372036854775807", "n > 9223372036854775807"),
    ("n >= -9223372036854775808", "n >= -9223372036854775808"),
    ("price < 1e300", "price < 1e+300"),
    # Strings.
    ("s = 'shoes'", "s = 'shoes'"),
    ("s = ''", "s = ''"),
    ("s = 'it''s'", 's = "it\'s"'),
    (r"s = 'a\n'", r"s = 'a\\n'"),
    ("s < 'm'", "s < 'm'"),
    ("s = '-- no comment; /* {# ('", "s = '-- no comment; /* {# ('"),
    ("s = 'naïve 写真 🙂'", "s = 'naïve 写真 🙂'"),
    # Booleans.
    ("in_stock", "in_stock = True"),
    ("NOT in_stock", "not(in_stock = True)"),
    ("in_stock = TRUE", "in_stock = True"),
    ("in_stock = false", "in_stock = False"),
    ("in_stock != TRUE", "not(in_stock = True)"),
    ("in_stock IN (TRUE)", "in_stock in [True]"),
    # Times: UTC where naive.
    ("at > '2026-01-02'", "at > 2026-01-02T00:00:00+00:00"),
    ("at > '2026-01-02T03:04:05Z'", "at > 2026-01-02T03:04:05+00:00"),
    ("at > '2026-01-02 03:04:05.25+01:00'", "at > 2026-01-02T02:04:05.250000+00:00"),
    ("at > '2026-01-02T03:04:05.123456789Z'", "at > 2026-01-02T03:04:05.123456+00:00"),
    ("at > TIMESTAMP '2026-01-02'", "at > 2026-01-02T00:00:00+00:00"),
    ("timestamp '2026-01-02' < at", "at > 2026-01-02T00:00:00+00:00"),
    # Membership and ranges.
    ("n IN (1, 2.5, -3)", "n in [1, 2.5, -3]"),
    ("n NOT IN (1)", "not(n in [1])"),
    ("NOT n IN (1)", "not(n in [1])"),
    ("s IN ('a', ('b'))", "s in ['a', 'b']"),
    ("n BETWEEN 1 AND 2", "and(n >= 1, n <= 2)"),
    ("n NOT BETWEEN -1 AND 2", "not(and(n >= -1, n <= 2))"),
    ("n BETWEEN 1 AND 2 AND in_stock", "and(and(n >= 1, n <= 2), in_stock = True)"),
    # Prefixes.
    ("s LIKE 'ab%'", "s ^ 'ab'"),
    ("s LIKE 'ab%%'", "s ^ 'ab'"),
    ("s LIKE '%'", "s ^ ''"),
    ("s LIKE 'ab'", "s = 'ab'"),
    ("s NOT LIKE 'ab%'", "not(s ^ 'ab')"),
    ("s NOT LIKE 'ab'", "not(s = 'ab')"),
    (r"s LIKE 'a\_b\%\\%'", r"s ^ 'a_b%\\'"),
    (r"s LIKE 'a\%'", "s = 'a%'"),
    ("s LIKE '写%'", "s ^ '写'"),
    # What a record lacks.
    ("n IS NULL", "n is null"),
    ("n IS NOT NULL", "not(n is null)"),
    ("tags IS NULL", "tags is null"),
    # Lists.
    ("tags CONTAINS 'red'", "tags has 'red'"),
    ("CONTAINS(tags, 'red')", "tags has 'red'"),
    ("contains ( tags , 'red' )", "tags has 'red'"),
    ("tags NOT CONTAINS 'red'", "not(tags has 'red')"),
    ("NOT tags CONTAINS 'red'", "not(tags has 'red')"),
    # Joined: NOT before AND before OR; chains are flat.
    ("n = 1 AND price < 2 AND in_stock", "and(n = 1, price < 2, in_stock = True)"),
    ("n = 1 or price < 2 and NOT in_stock", "or(n = 1, and(price < 2, not(in_stock = True)))"),
    ("(n = 1 OR price < 2) AND in_stock", "and(or(n = 1, price < 2), in_stock = True)"),
    ("n = 1 AND (price < 2 AND (in_stock))", "and(n = 1, price < 2, in_stock = True)"),
    ("NOT (n = 1 OR n = 2)", "not(or(n = 1, n = 2))"),
    ("NOT NOT in_stock", "in_stock = True"),
    ("NOT n != 1", "n = 1"),
    ("(((in_stock)))", "in_stock = True"),
    ("NOT n = 1 AND in_stock", "and(not(n = 1), in_stock = True)"),
    # Names that are words elsewhere, and quoted ones that are words here.
    ("order = 1", "order = 1"),
    ("Timestamp > '2026-01-02'", "Timestamp > 2026-01-02T00:00:00+00:00"),
    ('"in" IN (1)', "in in [1]"),
    ('"n" = 1', "n = 1"),
]


@pytest.mark.parametrize(("text", "message"), GOOD)
def test_what_is_a_filter(text: str, message: str) -> None:
    assert short(filters.parse(text, SCHEMA)) == message


BAD = [
    # Nothing, or half of something.
    ("", 0, "expected an attribute or a value"),
    ("   ", 3, "expected an attribute or a value"),
    ("n =", 3, "expected an attribute or a value"),
    ("= 1", 0, "expected an attribute or a value"),
    ("n = 1 AND", 9, "expected an attribute or a value"),
    ("n = 1 AND AND n = 2", 10, "expected an attribute or a value"),
    ("(n = 1", 6, "expected )"),
    ("n = 1)", 5, "expected AND, OR or the end"),
    ("n = 1 n = 2", 6, "expected AND, OR or the end"),
    ("n = 1 2", 6, "expected AND, OR or the end"),
    ("s = 'x", 4, "never closed"),
    ('"n = 1', 0, "never closed"),
    ("n NOT 5", 2, "expected AND, OR or the end"),
    ("n IS 5", 5, "expected NULL"),
    ("n IS NOT TRUE", 9, "expected NULL"),
    ("n BETWEEN 1", 11, "expected AND"),
    ("n BETWEEN 1 OR 2", 12, "expected AND"),
    ("n IN 1", 5, "expected ("),
    ("n IN ()", 6, "expected an attribute or a value"),
    ("n IN (1, 2", 10, "expected )"),
    ("s IN ('a' 'b')", 10, "expected )"),
    # Attributes that are not there, or not of this type.
    ("n = 1 AND colour = 'red'", 10, "no attribute 'colour'; there are Timestamp (timestamp), at (timestamp)"),
    ("N = 1", 0, "no attribute 'N'"),
    ('s = "x"', 4, "expected a string in single quotes"),
    ('"x" = s', 0, "a string stands in single quotes"),
    ("n = 'x'", 4, "'n' is of type integer: expected a number"),
    ("price IN (1, 'x')", 13, "'price' is of type float: expected a number"),
    ("s = 1", 4, "'s' is of type string: expected a string"),
    ("s BETWEEN 'a' AND 1", 18, "'s' is of type string: expected a string"),
    ("s = TRUE", 4, "expected a string"),
    ("in_stock = 1", 11, "'in_stock' is of type boolean: expected TRUE or FALSE"),
    ("in_stock < TRUE", 0, "only = and !="),
    ("at > 5", 5, "'at' is of type timestamp: expected a time such as"),
    ("at > 'yesterday'", 5, "'yesterday' is no time"),
    ("at > '2026-02-30'", 5, "'2026-02-30' is no time"),
    ("at > '0001-01-01T00:00:00+23:00'", 5, "is no time"),
    ("s = TIMESTAMP '2026-01-01'", 4, "expected a string"),
    ("n = NULL", 4, "expected a number; a record that lacks an attribute IS NULL"),
    ("s LIKE 5", 7, "expected a string"),
    ("n LIKE 'a%'", 0, "LIKE compares strings, and 'n' is of type integer"),
    ("s LIKE '%a'", 7, "only prefixes"),
    ("s LIKE 'a%b'", 7, "only prefixes"),
    ("s LIKE 'a_'", 7, "only prefixes"),
    ("s LIKE 'a\\'", 7, "only prefixes"),
    ("tags = 'red'", 0, "'tags' is a list of strings: expected CONTAINS"),
    ("tags IN ('red')", 0, "'tags' is a list of strings"),
    ("tags LIKE 'red%'", 0, "'tags' is a list of strings"),
    ("tags CONTAINS 5", 14, "'tags' is of type strings: expected a string"),
    ("s CONTAINS 'a'", 0, "CONTAINS looks into lists, and 's' is of type string"),
    ("n", 0, "'n' is of type integer: expected a comparison"),
    ("in_stock AND s", 13, "'s' is of type string: expected a comparison"),
    # Numbers beyond what there is.
    ("n = 9223372036854775808", 4, "64 bits"),
    ("price < -9223372036854775809", 8, "64 bits"),
    ("n = " + "9" * 5000, 4, "64 bits"),
    ("price < 1e999", 8, "beyond"),
    ("n = 0x1F", 5, "expected AND, OR or the end"),
    ("n = 1_000", 5, "expected AND, OR or the end"),
    ("n = 1e", 4, "float"),
    # What SQL has and a filter has not.
    ("1 = 1", 4, "expected an attribute"),
    ("n = price", 4, "expected a number"),
    ("n IN (price)", 6, "expected a number"),
    ("TRUE", 0, "expected a condition on an attribute"),
    ("TRUE AND n = 1", 0, "expected a condition on an attribute"),
    ("NULL", 0, "expected a condition on an attribute"),
    ("n = 1 = 2", 8, "expected an attribute"),
    ("1 < n < 2", 8, "expected an attribute"),
    ("(n = 1) IS NULL", 1, "expected an attribute"),
    ("n + 1 = 2", 2, "'+' has no meaning"),
    ("n -1 = 2", 2, "expected AND, OR or the end"),
    ("n - 1 = 2", 2, "expected AND, OR or the end"),
    ("- n = 2", 0, "'-' has no meaning"),
    ("n % 2 = 0", 2, "'%' has no meaning"),
    ("n << 1", 0, "expected a condition on an attribute"),
    ("lower(s) = 'a'", 0, "no functions"),
    ("s = lower('A')", 4, "no functions"),
    ("CONTAINS(tags)", 13, "expected CONTAINS(attribute, 'item')"),
    ("CONTAINS('red', tags)", 9, "expected an attribute"),
    ("t.n = 1", 1, "'.' has no meaning"),
    ("n IN (SELECT 1)", 13, "expected )"),
    ("(SELECT n) = 1", 8, "expected )"),
    ("EXISTS (SELECT 1)", 0, "no functions"),
    ("CASE WHEN n THEN 1 END", 5, "expected AND, OR or the end"),
    ("n IS DISTINCT FROM 1", 5, "expected NULL"),
    ("n AT TIME ZONE 'UTC' = 1", 2, "expected AND, OR or the end"),
    ("(n, s) = (1, 'a')", 2, "expected )"),
    ("n = ?", 4, "'?' has no meaning"),
    ("n = :x", 4, "':' has no meaning"),
    ("n = @x", 4, "'@' has no meaning"),
    ("n = 1; DROP TABLE records", 5, "';' has no meaning"),
    ("n ! = 1", 2, "'!' has no meaning"),
    ("n == 1", 3, "expected an attribute or a value"),
    ("s ~ 'a'", 2, "'~' has no meaning"),
    ("s || 'a' = 'b'", 2, "'|' has no meaning"),
    ("n = 1 -- AND in_stock", 6, "'-' has no meaning"),
    ("n = 1 /* AND in_stock */", 6, "'/' has no meaning"),
    ("n = 1 {# AND in_stock #}", 4, "no comments"),
    ("n = 1 # AND in_stock", 6, "'#' has no meaning"),
    ("n = 1 \x00", 6, "expected AND, OR or the end"),
]


@pytest.mark.parametrize(("text", "place", "why"), BAD)
def test_what_is_none(text: str, place: int, why: str) -> None:
    """It is refused, saying where and what was expected there."""
    with pytest.raises(InvalidArgument) as caught:
        filters.parse(text, SCHEMA)
    assert caught.value.field == "filter"
    assert why in caught.value.message
    assert caught.value.message.startswith(
        "at the start" if place == 0 else "at the end" if place == len(text) else f"at character {place}, between "
    )


def test_the_place_is_shown() -> None:
    """With what stands around it."""
    text = "s = 'shoes' AND n < 80 AND colour = 'red' AND in_stock"
    with pytest.raises(InvalidArgument) as caught:
        filters.parse(text, SCHEMA)
    shown = "at character 27, between \"… 'shoes' AND n < 80 AND \" and \"colour = 'red' AND in_st…\": "
    assert caught.value.message.startswith(shown)


def test_many_attributes_are_not_all_listed() -> None:
    """An error stays short, so that nothing of it is cut off on the wire."""
    with pytest.raises(InvalidArgument) as caught:
        filters.parse("x = 1", {f"attribute_{index}": TYPE_NAMES["string"] for index in range(64)})
    assert len(caught.value.message) < 500


def nested(depth: int) -> str:
    return "(n = 1 OR (n = 2 AND " * (depth // 2) + "in_stock" + "))" * (depth // 2)


LARGEST = {
    "terms": " OR ".join(["n=1"] * 1000),
    "values": "n IN (" + ",".join(["1"] * 4000) + ")",
    "parentheses": "(" * 40 + "in_stock" + ")" * 40,
    "negations": "NOT " * 40 + "in_stock",
    "alternations": nested(40),
    "characters": "s = '" + "é" * 4000 + "'",
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_filters(name: str) -> None:
    """They are read, and shards can read what is sent to them."""
    message = filters.parse(LARGEST[name], SCHEMA)
    request = SearchBatchRequest(groups=[SearchGroup(filter=message)])
    assert SearchBatchRequest.FromString(request.SerializeToString()) == request


TOO_LARGE = {
    "1 MB": ("n = 1 OR " * 111_111, "8,192 bytes"),
    "1 MB in one string": ("s = '" + "x" * 1_000_000 + "'", "8,192 bytes"),
    "1 MB of parentheses": ("(" * 1_000_000, "8,192 bytes"),
    "wide characters": ("s = '" + "写" * 3000 + "'", "8,192 bytes"),
    "1,001 terms": (" OR ".join(["n=1"] * 1001), "1,001 terms"),
    "parentheses": ("(" * 1000 + "in_stock" + ")" * 1000, "nested"),
    "open parentheses": ("(" * 8000, "nested"),
    "negations": ("NOT " * 1000 + "in_stock", "nested"),
    "both": ("NOT (" * 21 + "in_stock" + ")" * 21, "nested"),
    "alternations": ("n = 1 OR n = 2 AND (" * 21 + "in_stock" + ")" * 21, "nested"),
    "signs": ("n = " + "-" * 8000 + "1", "'-' has no meaning"),
    "zones": ("n" + " AT TIME ZONE n" * 540, "expected AND, OR or the end"),
    "brackets": ("n = " + "[" * 8000, "'[' has no meaning"),
    "comments": ("{#" * 4000, "never closed"),
    "comparisons": ("n" + " = n" * 2000, "expected"),
    "quotes": ("s = '" + "''" * 4000, "never closed"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(name: str) -> None:
    """Refused soon, whatever would have been in it."""
    text, why = TOO_LARGE[name]
    start = time.process_time()
    with pytest.raises(InvalidArgument, match=why.replace("[", "\\[")):
        filters.parse(text, SCHEMA)
    assert time.process_time() - start < PATIENCE


WORDS = [
    "n", "price", "s", "in_stock", "at", "tags", "order", "colour", "in", '"n"', "1", "-1", "2.5", "1e9", "'a'", "'a%'",
    "'2026-01-01'", "AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL", "TRUE", "FALSE", "CONTAINS", "TIMESTAMP",
    "=", "!=", "<>", "<", "<=", ">", ">=", "(", ")", ",", "-", "+", "*", ".", ";", "[", "]", "'", '"', "--", "/*", "{#",
    "#}", "AT", "TIME", "ZONE",
]  # fmt: skip


@settings(deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
def test_any_text(text: str) -> None:
    """It is a filter or it is refused; nothing else is ever raised."""
    start = time.process_time()
    with contextlib.suppress(InvalidArgument):
        message = filters.parse(text, SCHEMA)
        assert Filter.FromString(message.SerializeToString()) == message
    assert time.process_time() - start < PATIENCE


def test_what_was_read_is_kept() -> None:
    """For its text and schema: a type that is widened is another schema."""
    integer, floating = {"n": TYPE_NAMES["integer"]}, {"n": TYPE_NAMES["float"]}
    first = filters.serialized("n = 1", integer)
    assert short(Filter.FromString(first)) == "n = 1"
    assert filters.serialized("n = 1", dict(integer)) is first
    assert filters.serialized("n = 1", floating) is not first
    with pytest.raises(InvalidArgument, match="no attribute"):
        filters.serialized("n = 1", {})
