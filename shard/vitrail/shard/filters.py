"""Filters: which rows pass a condition on attributes, evaluated on whole columns.

A condition is true, false or unknown for a row, as in SQL. That takes no third value here, since a negation is moved
inwards until it meets a comparison: NOT (a AND b) is (NOT a) OR (NOT b), and so on, also where something is unknown.
A comparison and a negated one are both asked of the entries of a column alone, and a row that has no entry is in
neither answer: unknown, either way.

A NaN compares as in IEEE 754: it equals nothing, is less than nothing and greater than nothing, so NOT (x < 1) is
true for it.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitrail.shard.members import Members, Words, random_multipliers
from vitrail.shard.strings import Mask, Strings, Text, Texts, begin_with, compare, equal
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Filter, Filters
from vitrail.v1.types_pb2 import Value

Operator: TypeAlias = ComparisonOperator.ValueType
EQUAL = ComparisonOperator.COMPARISON_OPERATOR_EQUAL
LESS = ComparisonOperator.COMPARISON_OPERATOR_LESS
LESS_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_LESS_OR_EQUAL
GREATER = ComparisonOperator.COMPARISON_OPERATOR_GREATER
GREATER_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_GREATER_OR_EQUAL
OPERATORS: dict[Operator, np.ufunc] = {
    EQUAL: np.equal,
    LESS: np.less,
    LESS_OR_EQUAL: np.less_equal,
    GREATER: np.greater,
    GREATER_OR_EQUAL: np.greater_equal,
}
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

Condition: TypeAlias = Callable[[int, int], Mask]
"""Which of the rows from begin up to end pass: bool [end - begin], which the caller may change."""
Test: TypeAlias = Callable[[int, int], Mask]
"""The same for entries of a column instead of rows."""


class Entries:
    """A column at one moment: its entries in the order of their rows, uint32 [n]. Knows no comparison of its own."""

    kind: ClassVar[str]

    def __init__(self, rows: NDArray[np.uint32]) -> None:
        self.rows = rows

    def comparison(self, operator: Operator, value: Value) -> Test:
        raise ValueError(f"a {self.kind} is not compared")

    def membership(self, values: Sequence[Value]) -> Test:
        raise ValueError(f"a {self.kind} is not compared")

    def prefix(self, text: str) -> Test:
        raise ValueError(f"a {self.kind} has no prefix")

    def contains(self, item: str) -> Test:
        raise ValueError(f"a {self.kind} has no items")

    def where(self, test: Test, negated: bool) -> Condition:
        """The rows whose entries pass a test, or those whose entries fail it; never a row without one."""

        def condition(begin: int, end: int) -> Mask:
            first, last = self.between(begin, end)
            mask = test(first, last)
            if negated:
                np.logical_not(mask, out=mask)
            if last - first == end - begin:
                return mask
            passing = np.zeros(end - begin, np.bool_)
            passing[self.rows[first:last] - np.uint32(begin)] = mask
            return passing

        return condition

    def between(self, begin: int, end: int) -> tuple[int, int]:
        """The entries of the rows from begin up to end."""
        first, last = np.searchsorted(self.rows, np.array([begin, end], np.uint32)).tolist()
        return first, last

    def present(self, begin: int, end: int) -> Mask:
        """Which rows have an entry."""
        first, last = self.between(begin, end)
        rows = self.rows[first:last]
        if len(rows) and np.count_nonzero(rows[1:] != rows[:-1]) == end - begin - 1:
            return np.ones(end - begin, np.bool_)
        mask = np.zeros(end - begin, np.bool_)
        mask[rows - np.uint32(begin)] = True
        return mask


class Numbers(Entries):
    """Entries that are numbers of one type: [n]."""

    def __init__(self, rows: NDArray[np.uint32], values: NDArray[np.generic]) -> None:
        super().__init__(rows)
        self.values = values

    def comparison(self, operator: Operator, value: Value) -> Test:
        operator, operand = self.operand(operator, value)
        if isinstance(operand, bool):
            return lambda first, last: np.full(last - first, operand)
        compared = OPERATORS[operator]
        return lambda first, last: np.asarray(compared(self.values[first:last], operand), np.bool_)

    def membership(self, values: Sequence[Value]) -> Test:
        operands = (self.operand(EQUAL, value)[1] for value in values)
        members = np.array([operand for operand in operands if not isinstance(operand, bool)], self.values.dtype)
        members = members[members == members]  # NaN is nothing's equal, not even where its bits are the same
        if not len(members):
            return lambda first, last: np.zeros(last - first, np.bool_)
        if len(members) <= 4:
            return lambda first, last: _any_equal(self.values[first:last], members)
        keys, multiplier = _bits(members), random_multipliers(1)
        tables = Members(keys * multiplier)

        def test(first: int, last: int) -> Mask:
            asked = _bits(self.values[first:last])
            mask = np.zeros(last - first, np.bool_)
            for which in tables.candidates(asked * multiplier):
                mask |= keys[which] == asked
            return mask

        return test

    def operand(self, operator: Operator, value: Value) -> tuple[Operator, np.generic | bool]:
        """What to compare the numbers of this column with, and how, so that the answer is exact.

        A bool instead of a number is the answer for all of them.
        """
        raise NotImplementedError


class Integers(Numbers):
    kind = "integer"

    def operand(self, operator: Operator, value: Value) -> tuple[Operator, np.generic | bool]:
        number = _number(self.kind, value)
        if isinstance(number, float):
            if math.isnan(number) or (operator == EQUAL and not number.is_integer()):
                return operator, False
            if math.isinf(number):
                return operator, (operator in (LESS, LESS_OR_EQUAL)) == (number > 0)
            number = math.ceil(number) if operator in (LESS, GREATER_OR_EQUAL) else math.floor(number)
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            return operator, operator != EQUAL and (operator in (LESS, LESS_OR_EQUAL)) == (number > 0)
        return operator, np.int64(number)


class Floats(Numbers):
    kind = "float"

    def operand(self, operator: Operator, value: Value) -> tuple[Operator, np.generic | bool]:
        number = _number(self.kind, value)
        nearest = float(number)
        if isinstance(number, int) and int(nearest) != number:  # beyond 2^53, and between two floats
            if operator == EQUAL:
                return operator, False
            if operator in (LESS, LESS_OR_EQUAL):
                operator = LESS_OR_EQUAL if nearest < number else LESS
            else:
                operator = GREATER_OR_EQUAL if nearest > number else GREATER
        return operator, np.float64(nearest)


class Booleans(Numbers):
    kind = "boolean"

    def operand(self, operator: Operator, value: Value) -> tuple[Operator, np.generic | bool]:
        return operator, np.uint8(_expect(self.kind, value, "boolean_value").boolean_value)


class Timestamps(Numbers):
    """Microseconds since 1970; what is finer does not count."""

    kind = "timestamp"

    def operand(self, operator: Operator, value: Value) -> tuple[Operator, np.generic | bool]:
        moment = _expect(self.kind, value, "timestamp_value").timestamp_value
        return operator, np.int64(microseconds(moment.seconds, moment.nanos))


class TextEntries(Entries):
    """Entries that are strings."""

    kind = "string"

    def __init__(self, rows: NDArray[np.uint32], strings: Strings) -> None:
        super().__init__(rows)
        self.strings = strings

    def comparison(self, operator: Operator, value: Value) -> Test:
        text = Text.of(_expect(self.kind, value, "string_value").string_value)
        if operator == EQUAL:
            return lambda first, last: equal(self.strings.part(first, last), text)

        def test(first: int, last: int) -> Mask:
            less, same = compare(self.strings.part(first, last), text)
            mask = less if operator in (LESS, GREATER_OR_EQUAL) else less | same
            return ~mask if operator in (GREATER, GREATER_OR_EQUAL) else mask

        return test

    def membership(self, values: Sequence[Value]) -> Test:
        texts = [_expect(self.kind, value, "string_value").string_value for value in values]
        if len(texts) == 1:
            return self.comparison(EQUAL, values[0])
        members = Texts(texts)
        return lambda first, last: members.include(self.strings.part(first, last))

    def prefix(self, text: str) -> Test:
        prefix = Text.of(text)
        return lambda first, last: begin_with(self.strings.part(first, last), prefix)


class ListEntries(Entries):
    """Entries that are items of lists of strings; an empty list has one that equals nothing."""

    kind = "list of strings"

    def __init__(self, rows: NDArray[np.uint32], items: Strings) -> None:
        super().__init__(rows)
        self.items = items

    def contains(self, item: str) -> Test:
        text = Text.of(item)
        return lambda first, last: equal(self.items.part(first, last), text)

    def where(self, test: Test, negated: bool) -> Condition:
        """The rows of which an entry passes a test, or those that have entries, of which none does."""

        def condition(begin: int, end: int) -> Mask:
            first, last = self.between(begin, end)
            passing = self.present(begin, end) if negated else np.zeros(end - begin, np.bool_)
            passing[self.rows[first + np.flatnonzero(test(first, last))] - np.uint32(begin)] = not negated
            return passing

        return condition


Lookup: TypeAlias = Callable[[str], Sequence[Entries]]
"""The columns of an attribute, by its name: none where no row has it, two where integers became floats."""


def compile_filter(filter: Filter, lookup: Lookup, negated: bool = False) -> Condition:
    """Make a filter, or with `negated` its negation, a function of rows.

    Raises:
        ValueError: The filter is not complete, or compares an attribute with what it cannot be compared with.
    """
    match filter.WhichOneof("condition"):
        case "comparison":
            return _comparison(filter.comparison, lookup, negated)
        case "membership":
            values = filter.membership.values
            if not values:
                raise ValueError("a membership has no values")
            for value in values:
                _require(value)
            return _leaf(lookup(filter.membership.attribute), lambda column: column.membership(values), negated)
        case "prefix":
            text = filter.prefix.prefix
            return _leaf(lookup(filter.prefix.attribute), lambda column: column.prefix(text), negated)
        case "contains":
            item = filter.contains.item
            return _leaf(lookup(filter.contains.attribute), lambda column: column.contains(item), negated)
        case "is_null":
            return _is_null(lookup(filter.is_null), negated)
        case "conjunction":
            return _several(filter.conjunction, lookup, negated, every=not negated)
        case "disjunction":
            return _several(filter.disjunction, lookup, negated, every=negated)
        case "negation":
            return compile_filter(filter.negation, lookup, not negated)
        case _:
            raise ValueError("a filter has no condition")


def microseconds(seconds: int, nanos: int) -> int:
    """A Timestamp as a number, rounded down; one that is too far away as the farthest there is."""
    return max(MIN_INTEGER, min(seconds * 1_000_000 + nanos // 1000, MAX_INTEGER))


def _comparison(comparison: Comparison, lookup: Lookup, negated: bool) -> Condition:
    operator, value = comparison.operator, comparison.value
    if operator not in OPERATORS:
        raise ValueError(f"a comparison has no operator that is known here: {operator}")
    _require(value)
    return _leaf(lookup(comparison.attribute), lambda column: column.comparison(operator, value), negated)


def _leaf(columns: Sequence[Entries], test: Callable[[Entries], Test], negated: bool) -> Condition:
    """The columns of one attribute share no row, so what is true of a row is true in one of them."""
    return _one_of([column.where(test(column), negated) for column in columns])


def _is_null(columns: Sequence[Entries], negated: bool) -> Condition:
    present = _one_of([column.present for column in columns])
    return present if negated else lambda begin, end: ~present(begin, end)


def _several(filters: Filters, lookup: Lookup, negated: bool, *, every: bool) -> Condition:
    if not filters.filters:
        raise ValueError("a conjunction or disjunction has no filters")
    conditions = [compile_filter(filter, lookup, negated) for filter in filters.filters]
    return _all_of(conditions) if every else _one_of(conditions)


def _all_of(conditions: Sequence[Condition]) -> Condition:
    first, *others = conditions

    def condition(begin: int, end: int) -> Mask:
        mask = first(begin, end)
        for other in others:
            if not mask.any():
                break
            mask &= other(begin, end)
        return mask

    return condition


def _one_of(conditions: Sequence[Condition]) -> Condition:
    def condition(begin: int, end: int) -> Mask:
        mask = np.zeros(end - begin, np.bool_)
        for one in conditions:
            mask |= one(begin, end)
            if mask.all():
                break
        return mask

    return condition if len(conditions) != 1 else conditions[0]


def _require(value: Value) -> None:
    if value.WhichOneof("kind") is None:
        raise ValueError("a value is missing")


def _expect(kind: str, value: Value, field: str) -> Value:
    given = value.WhichOneof("kind")
    if given != field:
        raise ValueError(f"a {kind} is not compared with a {given}")
    return value


def _number(kind: str, value: Value) -> int | float:
    if value.WhichOneof("kind") == "integer_value":
        return value.integer_value
    return _expect(kind, value, "float_value").float_value


def _any_equal(values: NDArray[np.generic], members: NDArray[np.generic]) -> Mask:
    mask: Mask = values == members[0]
    for member in members[1:]:
        mask |= values == member
    return mask


def _bits(values: NDArray[np.generic]) -> Words:
    """Numbers as 64 bits that are equal where the numbers are, NaN apart."""
    if values.dtype == np.float64:
        values = np.add(values, 0.0, dtype=np.float64)  # -0.0 becomes 0.0
    return values.view(np.uint64) if values.itemsize == 8 else values.astype(np.uint64)
