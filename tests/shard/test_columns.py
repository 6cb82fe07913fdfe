"""Columns and filters: every answer is compared with three-valued logic on Python values, row by row."""

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.rpc.attributes import AttributeValue
from vitrail.shard import columns as columns_module
from vitrail.shard import strings
from vitrail.shard.columns import Columns
from vitrail.shard.files import Mismatch, hash_file
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Contains, Filter, Filters, Membership, Prefix
from vitrail.v1.types_pb2 import Attributes, StringList, Value

Record: TypeAlias = Mapping[str, Value]
Truth: TypeAlias = bool | None

EQUAL = ComparisonOperator.COMPARISON_OPERATOR_EQUAL
LESS = ComparisonOperator.COMPARISON_OPERATOR_LESS
LESS_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_LESS_OR_EQUAL
GREATER = ComparisonOperator.COMPARISON_OPERATOR_GREATER
GREATER_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_GREATER_OR_EQUAL


# Values and filters, made and read.


def text(value: str) -> Value:
    return Value(string_value=value)


def integer(value: int) -> Value:
    return Value(integer_value=value)


def number(value: float) -> Value:
    return Value(float_value=value)


def boolean(value: bool) -> Value:
    return Value(boolean_value=value)


def moment(seconds: int, nanos: int = 0) -> Value:
    value = Value()
    value.timestamp_value.seconds, value.timestamp_value.nanos = seconds, nanos
    return value


def items(*values: str) -> Value:
    return Value(strings_value=StringList(values=values))


def serialized(record: Record) -> bytes:
    return Attributes(fields=record).SerializeToString()


def compare(attribute: str, operator: ComparisonOperator.ValueType, value: Value) -> Filter:
    return Filter(comparison=Comparison(attribute=attribute, operator=operator, value=value))


def among(attribute: str, *values: Value) -> Filter:
    return Filter(membership=Membership(attribute=attribute, values=values))


def prefix(attribute: str, value: str) -> Filter:
    return Filter(prefix=Prefix(attribute=attribute, prefix=value))


def contains(attribute: str, item: str) -> Filter:
    return Filter(contains=Contains(attribute=attribute, item=item))


def is_null(attribute: str) -> Filter:
    return Filter(is_null=attribute)


def every(*filters: Filter) -> Filter:
    return Filter(conjunction=Filters(filters=filters))


def some(*filters: Filter) -> Filter:
    return Filter(disjunction=Filters(filters=filters))


def no(filter: Filter) -> Filter:
    return Filter(negation=filter)


# The same by hand.


def plain(value: Value) -> AttributeValue:
    """A value as Python has it, a timestamp in microseconds."""
    kind = value.WhichOneof("kind")
    if kind == "timestamp_value":
        return value.timestamp_value.seconds * 1_000_000 + value.timestamp_value.nanos // 1000
    if kind == "strings_value":
        return list(value.strings_value.values)
    found: AttributeValue = getattr(value, str(kind))
    return found


def truth(filter: Filter, record: Record) -> Truth:
    """What a filter says of a record: true, false, or None for unknown."""
    match filter.WhichOneof("condition"):
        case "comparison":
            operators: dict[int, Callable[[float, float], bool]] = {
                EQUAL: lambda a, b: a == b,
                LESS: lambda a, b: a < b,
                LESS_OR_EQUAL: lambda a, b: a <= b,
                GREATER: lambda a, b: a > b,
                GREATER_OR_EQUAL: lambda a, b: a >= b,
            }
            compared = operators[filter.comparison.operator]
            operand = plain(filter.comparison.value)
            return of(record, filter.comparison.attribute, lambda value: compared(value, operand))  # type: ignore[arg-type]
        case "membership":
            values = [plain(value) for value in filter.membership.values]
            return of(record, filter.membership.attribute, lambda value: any(value == one for one in values))
        case "prefix":
            return of(record, filter.prefix.attribute, lambda value: str(value).startswith(filter.prefix.prefix))
        case "contains":
            return of(record, filter.contains.attribute, lambda value: filter.contains.item in value)  # type: ignore[operator]
        case "is_null":
            return filter.is_null not in record
        case "negation":
            inner = truth(filter.negation, record)
            return None if inner is None else not inner
        case "conjunction":
            return all_true([truth(one, record) for one in filter.conjunction.filters])
        case _:
            told = [truth(one, record) for one in filter.disjunction.filters]
            inverse = all_true([None if one is None else not one for one in told])
            return None if inverse is None else not inverse


def of(record: Record, attribute: str, test: Callable[[AttributeValue], bool]) -> Truth:
    return test(plain(record[attribute])) if attribute in record else None


def all_true(told: Sequence[Truth]) -> Truth:
    if False in told:
        return False
    return None if None in told else True


# What Hypothesis makes: few values that meet often, among them those where a representation could break.

EDGE_TEXTS = [
    *("", "a", "a\0", "a\0\0b", "b", "12345678", "12345678\0", "1234567", "123456789", "1234567890123456"),
    *("1234567890123456\0", "1234567890123456" + "\0" * 9, "12345678901234567", "123456789012345678901234"),
    *("12345678901234567890123", "1234567890123456789012345", "1234567890123456" + "\0" * 8 + "x" * 8),
    "1234567890123456" + "x" * 8 + "\0" * 8 + "\1",
    *("1234567890123456" + "x" * length for length in (8, 9, 17, 40, 400)),
    *("1234567890123456" + "x" * 39 + "y", "1234567890123456" + "x" * 8 + "\0" * 8, "1234567890123457" + "x" * 40),
    *("é", "z", "日本語", "🧢", "\uffff", "1234567890123456🧢🧢🧢"),
]
EDGE_INTEGERS = [0, 1, -1, 7, 8, -8, 2**53, 2**53 + 1, -(2**53) - 1, 2**62 + 1, 2**63 - 1, 2**63 - 512, -(2**63)]
EDGE_FLOATS = [
    *(0.0, -0.0, 0.5, 1.0, 7.0, 7.5, -7.5, 2.0**53, 2.0**53 + 2, -(2.0**53), -(2.0**53) - 2, 2.0**62, 2.0**62 + 1024),
    *(2.0**63, 2.0**63 - 1024, -(2.0**63), 2.0**64, -(2.0**64), 1e300, math.nan, math.inf, -math.inf),
]
TEXTS = st.sampled_from(EDGE_TEXTS) | st.text(max_size=30)
INTEGERS = st.sampled_from(EDGE_INTEGERS) | st.integers(-(2**63), 2**63 - 1)
FLOATS = st.sampled_from(EDGE_FLOATS) | st.floats(width=64)
MOMENTS = st.builds(
    moment,
    st.sampled_from([0, -1, 1, 1_700_000_000, -62_135_596_800, 253_402_300_799]),
    st.sampled_from([0, 1000, 1999, 999_999_999]),
)
VALUES: dict[str, st.SearchStrategy[Value]] = {
    "text": TEXTS.map(text),
    "number": INTEGERS.map(integer) | FLOATS.map(number),  # widened
    "whole": INTEGERS.map(integer),
    "real": FLOATS.map(number),
    "flag": st.booleans().map(boolean),
    "when": MOMENTS,
}
OPERANDS = VALUES | {"whole": VALUES["number"], "real": VALUES["number"]}
LISTS = st.lists(TEXTS, max_size=4).map(lambda values: items(*values))
NAMES = st.sampled_from(sorted(VALUES))

RECORDS = st.fixed_dictionaries({}, optional=VALUES | {"list": LISTS})
LEAVES = (
    NAMES.flatmap(
        lambda name: st.builds(
            compare,
            st.just(name),
            st.sampled_from([EQUAL, LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL]),
            OPERANDS[name],
        )
    )
    | NAMES.flatmap(
        lambda name: st.lists(OPERANDS[name], min_size=1, max_size=12).map(lambda values: among(name, *values))
    )
    | TEXTS.map(lambda value: prefix("text", value))
    | TEXTS.map(lambda value: contains("list", value))
    | st.sampled_from([*VALUES, "list", "unheard"]).map(is_null)
    | TEXTS.map(lambda value: compare("unheard", LESS, text(value)))
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(no)
        | st.lists(inner, min_size=1, max_size=4).map(lambda filters: every(*filters))
        | st.lists(inner, min_size=1, max_size=4).map(lambda filters: some(*filters))
    ),
    max_leaves=8,
)


def check(columns: Columns, filter: Filter, records: Sequence[Record], begin: int = 0) -> None:
    expected = [truth(filter, record) is True for record in records[begin:]]
    assert columns.matches(filter, begin, len(records)).tolist() == expected, filter


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(RECORDS, max_size=8), max_size=5),
    filters=st.lists(FILTERS, min_size=1, max_size=6),
    block=st.integers(1, 20),
    data=st.data(),
)
def test_filters_agree_with_three_valued_logic(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[Record]],
    filters: list[Filter],
    block: int,
    data: st.DataObject,
) -> None:
    """Whatever the records, the filters and the batches: after appending, reopening, and copying some of the rows."""
    directory = tmp_path_factory.mktemp("columns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "BLOCK", block)
        columns, records = Columns(directory), list[Record]()
        for batch in batches:
            columns.append(len(records), [serialized(record) for record in batch])
            records += batch
            if data.draw(st.booleans(), "reopen"):
                published = columns.described()
                columns.close()
                columns = Columns(directory, published)
                assert columns.described() == published
        for filter in filters:
            check(columns, filter, records, data.draw(st.integers(0, len(records)), "begin"))
        chosen = sorted(data.draw(st.sets(st.integers(0, max(0, len(records) - 1))), "copied")) if records else []
        copy = Columns(tmp_path_factory.mktemp("copy"))
        for start in range(0, len(chosen), 5):
            copy.copy_rows(columns, np.array(chosen[start : start + 5], np.int64), start)
        copied = [records[row] for row in chosen]
        more = data.draw(st.lists(RECORDS, max_size=3), "appended to the copy")
        copy.append(len(copied), [serialized(record) for record in more])
        for filter in filters:
            check(copy, filter, [*copied, *more])
        columns.close()
        copy.close()


OPERATORS = [EQUAL, LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL]


def test_every_number_is_compared_exactly_with_every_other(tmp_path: Path) -> None:
    """Integers and floats, in a column of each kind and in one that was widened."""
    whole, real = [integer(value) for value in EDGE_INTEGERS], [number(value) for value in EDGE_FLOATS]
    columns = Columns(tmp_path)
    records: list[Record] = [{"whole": value, "any": value} for value in whole]
    records += [{"real": value, "any": value} for value in real]
    columns.append(0, [serialized(record) for record in records])
    for attribute in ("whole", "real", "any"):
        for value in whole + real:
            for operator in OPERATORS:
                check(columns, compare(attribute, operator, value), records)
                check(columns, no(compare(attribute, operator, value)), records)
            check(columns, among(attribute, value), records)
        check(columns, among(attribute, *whole), records)
        check(columns, among(attribute, *real), records)


def test_every_string_is_compared_exactly_with_every_other(tmp_path: Path) -> None:
    """Around each length at which they are laid out otherwise, and once more in a copy with a heap of its own."""
    (tmp_path / "copy").mkdir()
    columns, copy = Columns(tmp_path), Columns(tmp_path / "copy")
    records: list[Record] = [{"text": text(value), "list": items("x", value)} for value in EDGE_TEXTS]
    columns.append(0, [serialized(record) for record in records])
    for row in range(len(records)):
        copy.copy_rows(columns, np.array([row]), row)
    for value in EDGE_TEXTS:
        filters = [compare("text", operator, text(value)) for operator in OPERATORS]
        filters += [prefix("text", value), contains("list", value), among("text", text(value), text("1"))]
        for filter in filters:
            check(columns, filter, records)
            check(copy, filter, records)


UNKNOWN = compare("a", LESS, text("x"))
CASES: list[tuple[str, Record, Filter, bool]] = [
    ("an empty string is not null", {"a": text("")}, is_null("a"), False),
    ("an empty string equals itself", {"a": text("")}, compare("a", EQUAL, text("")), True),
    ("what is absent is null", {}, is_null("a"), True),
    ("what is absent equals nothing", {}, compare("a", EQUAL, text("")), False),
    ("nor does it differ from anything", {}, no(compare("a", EQUAL, text(""))), False),
    ("unknown or true is true", {"b": integer(1)}, some(is_null("b"), is_null("a")), True),
    ("not (unknown and false) is true", {"b": integer(1)}, no(every(UNKNOWN, is_null("b"))), True),
    ("not (unknown and true) is unknown", {"b": integer(1)}, no(every(UNKNOWN, no(is_null("b")))), False),
    ("an empty list is not null", {"a": items()}, is_null("a"), False),
    ("an empty list does not contain", {"a": items()}, no(contains("a", "")), True),
    ("a list with an empty string does", {"a": items("x", "")}, contains("a", ""), True),
    ("no list is neither", {}, some(contains("a", "x"), no(contains("a", "x"))), False),
    ("NaN equals nothing", {"a": number(math.nan)}, compare("a", EQUAL, number(math.nan)), False),
    ("NaN is not less", {"a": number(math.nan)}, compare("a", LESS, number(1)), False),
    ("so it is not (less)", {"a": number(math.nan)}, no(compare("a", LESS, number(1))), True),
    ("NaN is not null", {"a": number(math.nan)}, is_null("a"), False),
    ("NaN is in no list", {"a": number(math.nan)}, among("a", *map(number, [math.nan, 1, 2, 3, 4, 5])), False),
    ("the zeros are one", {"a": number(-0.0)}, among("a", *map(number, [0.0, 1, 2, 3, 4, 5])), True),
    ("in code points, not UTF-16", {"a": text("\uffff")}, compare("a", LESS, text("🧢")), True),
    ("é is beyond z", {"a": text("é")}, compare("a", GREATER, text("z")), True),
    ("a prefix may end in any character", {"a": text("日本語")}, prefix("a", "日本"), True),
    ("a prefix is longer than the string", {"a": text("日本")}, prefix("a", "日本語"), False),
    ("zeros are text", {"a": text("a")}, prefix("a", "a\0"), False),
    ("zeros count for equality", {"a": text("a\0")}, compare("a", EQUAL, text("a")), False),
    ("before 1970", {"a": moment(-1, 500_000_000)}, compare("a", LESS, moment(0)), True),
    ("half a second is less", {"a": moment(-1, 500_000_000)}, compare("a", GREATER, moment(-1)), True),
    ("it is rounded down", {"a": moment(5, 1999)}, compare("a", EQUAL, moment(5, 1000)), True),
    ("finer than a microsecond does not count", {"a": moment(5, 1)}, compare("a", EQUAL, moment(5, 999)), True),
    ("the first moment there is", {"a": moment(-62_135_596_800)}, compare("a", LESS, moment(-62_135_596_799)), True),
    ("a moment that no calendar has", {"a": moment(2**62)}, compare("a", GREATER, moment(253_402_300_799)), True),
    ("2^53 + 1 as an integer is not 2^53", {"a": integer(2**53 + 1)}, compare("a", GREATER, number(2.0**53)), True),
    ("nor is it in a list of floats", {"a": integer(2**53 + 1)}, among("a", number(2.0**53)), False),
    ("2^53 as a float is less", {"a": number(2.0**53)}, compare("a", LESS, integer(2**53 + 1)), True),
    ("and not equal", {"a": number(2.0**53)}, compare("a", EQUAL, integer(2**53 + 1)), False),
    ("no integer reaches 2^63", {"a": integer(2**63 - 1)}, compare("a", LESS, number(2.0**63)), True),
    ("none is infinite", {"a": integer(-(2**63))}, compare("a", GREATER, number(-math.inf)), True),
    ("none is compared with NaN", {"a": integer(1)}, compare("a", LESS_OR_EQUAL, number(math.nan)), False),
    ("false is less than true", {"a": boolean(False)}, compare("a", LESS, boolean(True)), True),
]  # fmt: skip


@pytest.mark.parametrize(("record", "filter", "passes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_edges(tmp_path: Path, record: Record, filter: Filter, passes: bool) -> None:
    columns = Columns(tmp_path)
    columns.append(0, [b"", serialized(record)])
    assert columns.matches(filter, 1, 2).tolist() == [passes]


@pytest.mark.parametrize(
    "filter",
    [
        Filter(),
        no(Filter()),
        every(),
        some(),
        every(is_null("s"), Filter()),
        compare("s", ComparisonOperator.COMPARISON_OPERATOR_UNSPECIFIED, text("x")),
        Filter(comparison=Comparison(attribute="s", operator=99, value=text("x"))),  # type: ignore[arg-type]
        compare("s", EQUAL, Value()),
        compare("unheard", EQUAL, Value()),
        compare("unheard", ComparisonOperator.COMPARISON_OPERATOR_UNSPECIFIED, text("x")),
        compare("s", EQUAL, integer(1)),
        compare("i", EQUAL, text("1")),
        compare("i", EQUAL, moment(1)),
        compare("f", LESS, boolean(True)),
        compare("b", EQUAL, integer(1)),
        compare("t", EQUAL, integer(1)),
        compare("l", EQUAL, items("x")),
        compare("l", EQUAL, text("x")),
        among("s"),
        among("unheard"),
        among("unheard", Value()),
        among("s", text("x"), Value()),
        among("s", text("x"), integer(1)),
        among("l", text("x")),
        prefix("i", "1"),
        prefix("l", "x"),
        contains("s", "x"),
    ],
    ids=lambda filter: " ".join(str(filter).split()),
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, filter: Filter) -> None:
    columns = Columns(tmp_path)
    record = {"s": text("x"), "i": integer(1), "f": number(1), "b": boolean(True), "t": moment(1), "l": items("x")}
    columns.append(0, [serialized(record)])
    with pytest.raises(ValueError, match=r"^a "):
        columns.matches(filter, 0, 1)


def test_a_filter_as_deep_as_a_message_can_be(tmp_path: Path) -> None:
    """Protobuf refuses what is nested more than 100 deep; what it lets through is evaluated."""
    filter = is_null("a")
    for _ in range(98):
        filter = no(filter)
    columns = Columns(tmp_path)
    columns.append(0, [serialized({"a": integer(1)}), b""])
    assert columns.matches(Filter.FromString(filter.SerializeToString()), 0, 2).tolist() == [False, True]


def test_many_values_are_found_in_one_go(tmp_path: Path) -> None:
    """Sets so large that their hash tables have several layers, of numbers and of strings of all lengths."""
    numbers = np.random.default_rng(0).integers(0, 1000, 600).tolist()
    records = [{"n": integer(one), "s": text("x" * (one % 40) + str(one))} for one in numbers]
    columns = Columns(tmp_path)
    columns.append(0, [serialized(record) for record in records])
    for values in (range(0, 1000, 3), range(1, 1000, 100)):
        check(columns, among("n", *map(integer, values)), records)
        check(columns, among("s", *(text("x" * (one % 40) + str(one)) for one in values)), records)


def test_members_that_meet_in_one_slot_are_all_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every key is the same, so that only the strings themselves tell."""
    monkeypatch.setattr(strings, "random_multipliers", lambda count: np.zeros(count, np.uint64))
    records = [{"s": text(one)} for one in EDGE_TEXTS]
    columns = Columns(tmp_path)
    columns.append(0, [serialized(record) for record in records])
    check(columns, among("s", *map(text, EDGE_TEXTS[::2])), records)
    check(columns, among("s", *map(text, EDGE_TEXTS[1::2])), records)


def test_what_shares_a_short_digest_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 56 bits of the digest agree, the other 64 on the heap decide."""

    class Digest:
        def __init__(self, data: bytes, digest_size: int) -> None:
            self._data = data

        def digest(self) -> bytes:
            return bytes(8) + len(self._data).to_bytes(8)

    monkeypatch.setattr(strings, "blake2b", Digest)
    texts = ["x" * 30, "x" * 31, "x" * 40, "x" * 31, "y" + "x" * 30, "x" * 8 + "y" + "x" * 22]
    records = [{"s": text(one)} for one in texts]
    columns = Columns(tmp_path)
    columns.append(0, [serialized(record) for record in records])
    check(columns, compare("s", EQUAL, text("x" * 31)), records)
    check(columns, among("s", text("x" * 31), text("x" * 32), text("x" * 40)), records)


def test_filters_are_evaluated_while_rows_are_appended(tmp_path: Path) -> None:
    """A reader sees all rows that it knows of, and only those, while files outgrow their mappings and columns come."""
    columns, known, rows = Columns(tmp_path), 0, 200_000
    batch = 5_000
    answers: list[tuple[int, int]] = []

    def read() -> None:
        filter = some(every(prefix("s", "a common beginning of"), compare("n", LESS, integer(10))), no(is_null("late")))
        while known < rows:
            end = known
            answers.append((end, int(columns.matches(filter, 0, end).sum())))

    reader = threading.Thread(target=read)
    reader.start()
    record = {"s": text("a common beginning of strings"), "n": integer(1)}
    early = [serialized(record)] * batch
    late = [serialized({"late": boolean(True)})] * batch
    for first in range(0, rows, batch):
        columns.append(first, late if first >= rows // 2 else early)
        known = first + batch
    reader.join()
    assert len(answers) > 10
    assert all(end == found for end, found in answers)


def test_a_column_costs_only_the_rows_that_have_it(tmp_path: Path) -> None:
    """Rows without attributes write nothing, and equal long strings of a batch are kept once."""
    columns = Columns(tmp_path)
    columns.append(0, [b""] * 10_000)
    assert columns.files == []
    columns.append(10_000, [serialized({"a": integer(1), "s": text("long " * 100)})] * 100)
    size = sum(file.size for file in columns.files)
    columns.append(10_100, [b""] * 10_000)
    assert size == sum(file.size for file in columns.files) < 100 * 50 + 1000
    assert columns.matches(is_null("a"), 0, 20_100).sum() == 20_000


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    records = [{"Name": integer(1)}, {"name": integer(1)}]
    columns.append(0, [serialized(record) for record in records])
    check(columns, is_null("Name"), records)
    assert len({file.name.lower() for file in columns.described()}) == 4


def test_what_was_not_published_is_forgotten(tmp_path: Path) -> None:
    """Rows and columns that came after the publication are gone, and can be appended again."""
    columns = Columns(tmp_path)
    records: list[Record] = [{"a": integer(1)}, {"a": integer(2)}]
    columns.append(0, [serialized(record) for record in records])
    published = columns.described()
    columns.append(2, [serialized({"a": integer(1), "new": text("x")})])
    columns.close()
    again = Columns(tmp_path, published)
    assert again.described() == published
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in published)
    records.append({"new": integer(3)})
    again.append(2, [serialized(records[-1])])
    for filter in (is_null("a"), is_null("new"), compare("new", EQUAL, integer(3)), compare("a", EQUAL, integer(1))):
        check(again, filter, records)


def test_files_that_lost_bytes_are_refused(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    columns.append(0, [serialized({"a": text("x"), "n": integer(1)})] * 3)
    published = columns.described()
    columns.close()
    for file in published:
        path = tmp_path / file.name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(Mismatch, match="shorter"):
            Columns(tmp_path, published)
        path.write_bytes(whole)
    Columns(tmp_path, published).close()
    for file in published:
        if file.part != "heap":
            path = tmp_path / file.name
            whole = path.read_bytes()
            path.write_bytes(whole[:4])
            shorter = [
                one if one is not file else file.model_copy(update=hash_file(path).model_dump()) for one in published
            ]
            with pytest.raises(Mismatch, match="not whole"):
                Columns(tmp_path, shorter)
            path.write_bytes(whole)
    with pytest.raises(Mismatch, match="not whole"):
        Columns(tmp_path, [file for file in published if file.part != "rows"])


def test_bytes_that_changed_show(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    columns.append(0, [serialized({"a": integer(5)})])
    published = columns.described()
    columns.close()
    path = tmp_path / published[-1].name
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(Mismatch, match="does not end"):
        Columns(tmp_path, published)


@pytest.mark.parametrize("writes", range(1, 9))
def test_a_full_disk_leaves_columns_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Whichever write fails: nothing of the batch is kept, no file of a new column stays, and it can be taken later."""
    columns = Columns(tmp_path)
    records: list[Record] = [{"a": integer(1), "s": text("a string of more than 24 bytes")}, {"a": integer(2)}]
    columns.append(0, [serialized(record) for record in records])
    published, names = columns.described(), {path.name for path in tmp_path.iterdir()}
    more: list[Record] = [{"a": integer(3), "s": text("another one of more than 24 bytes"), "new": integer(4)}]
    write, left = os.pwrite, writes - 1

    def full(file: int, data: bytes, offset: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        columns.append(2, [serialized(record) for record in more])
    left = writes - 1
    with pytest.raises(OSError, match="No space"):
        columns.append(2, [serialized(record) for record in more])
    monkeypatch.undo()
    assert (columns.described(), {path.name for path in tmp_path.iterdir()}) == (published, names)
    check(columns, compare("a", GREATER, integer(0)), records)
    columns.append(2, [serialized(record) for record in more])
    records += more
    for filter in (is_null("new"), compare("a", EQUAL, integer(3)), prefix("s", "another one of more")):
        check(columns, filter, records)
