r"""Filters: a SQL-like condition on the attributes of records, as text, made into a message that shards evaluate.

    condition:  condition AND condition, condition OR condition, NOT condition, (condition)
                attribute = value                also !=, <>, <, <=, >, >=, and with the value first
                attribute [NOT] IN (value, …)
                attribute [NOT] BETWEEN value AND value
                attribute [NOT] LIKE 'prefix%'   a string that begins so; `\` before a % or _ takes it as it is
                attribute IS [NOT] NULL
                attribute CONTAINS 'item'        a list of strings, also CONTAINS(attribute, 'item')
                attribute                        a boolean
    value:      'string', 12, -0.5, 1e9, TRUE, FALSE, '2026-01-02T03:04:05Z', TIMESTAMP '2026-01-02'
    attribute:  name, or "name" where it is one of the words above

sqlglot's tokenizer and parser do the reading, as a dialect that knows these words and nothing else. The text is
bounded before anything recurses over it, and so is the message: protobuf parses no more than 100 levels.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, ClassVar, NoReturn, TypeAlias, cast

from sqlglot import Parser, Token, Tokenizer, TokenType, exp
from sqlglot.errors import TokenError
from sqlglot.parser import binary_range_parser

from vitrail.rpc.attributes import NAMES_OF_TYPES
from vitrail.rpc.errors import InvalidArgument
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Contains, Filter, Filters, Membership, Prefix
from vitrail.v1.types_pb2 import AttributeType, Value

MAX_BYTES = 8192
MAX_TERMS = 1000
# Of parentheses and NOT in the text, and of conditions in the message, each of which takes up to two levels of it.
MAX_NESTING = 40
# Filters that are kept parsed: services ask again and again with the same few.
KEPT = 1024
# Characters of the text that an error shows on each side of the place, and of the names that it lists.
EXCERPT, LISTED = 24, 300

STRING, STRINGS = AttributeType.ATTRIBUTE_TYPE_STRING, AttributeType.ATTRIBUTE_TYPE_STRINGS
BOOLEAN, TIMESTAMP = AttributeType.ATTRIBUTE_TYPE_BOOLEAN, AttributeType.ATTRIBUTE_TYPE_TIMESTAMP
INTEGER, FLOAT = AttributeType.ATTRIBUTE_TYPE_INTEGER, AttributeType.ATTRIBUTE_TYPE_FLOAT
EXPECTED = {
    STRING: "a string in single quotes",
    INTEGER: "a number",
    FLOAT: "a number",
    BOOLEAN: "TRUE or FALSE",
    TIMESTAMP: "a time such as '2026-01-02' or '2026-01-02T03:04:05Z'",
}
INTEGER_LITERAL = re.compile(r"-?[0-9]+")
PATTERN = re.compile(r"((?:[^\\%_]|\\.)*)(%*)", re.DOTALL)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)

EQUAL = ComparisonOperator.COMPARISON_OPERATOR_EQUAL
LESS, LESS_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_LESS, ComparisonOperator.COMPARISON_OPERATOR_LESS_OR_EQUAL
GREATER = ComparisonOperator.COMPARISON_OPERATOR_GREATER
GREATER_OR_EQUAL = ComparisonOperator.COMPARISON_OPERATOR_GREATER_OR_EQUAL

Schema: TypeAlias = Mapping[str, AttributeType.ValueType]


def parse(text: str, schema: Schema) -> Filter:
    """Read a condition on attributes of these types.

    Raises:
        InvalidArgument: It is too long, nested too deeply, or not a condition on these attributes. The message says
            where, and what was expected there.
    """
    (tree,) = _Parser().parse_into(exp.Condition, _tokens(text), text)
    return _Reader(text, schema).condition(cast("exp.Expression", tree))


def serialized(text: str, schema: Schema) -> bytes:
    """The same as the bytes of the message; what is asked for again costs nothing.

    Raises:
        InvalidArgument: As `parse`.
    """
    return _serialized(text, frozenset(schema.items()))


@lru_cache(KEPT)
def _serialized(text: str, schema: "frozenset[tuple[str, AttributeType.ValueType]]") -> bytes:
    return parse(text, dict(schema)).SerializeToString(deterministic=True)


def _refusal(text: str, start: int, message: str) -> InvalidArgument:
    """An error at a place of the text."""
    before = ("…" if start > EXCERPT else "") + text[max(0, start - EXCERPT) : start]
    after = text[start : start + EXCERPT] + ("…" if start + EXCERPT < len(text) else "")
    if before and after:
        place = f"at character {start}, between {before!r} and {after!r}"
    else:
        place = f"at the end, after {before!r}" if before else f"at the start, before {after!r}"
    return InvalidArgument(f"{place}: {message}", field="filter")


# From text to tokens.


class _Tokenizer(Tokenizer):
    """Knows the words of a condition. All others are names, so attributes may be called `order` or `date`."""

    KEYWORDS: ClassVar[dict[str, TokenType]] = {
        "<=": TokenType.LTE,
        ">=": TokenType.GTE,
        "<>": TokenType.NEQ,
        "!=": TokenType.NEQ,
        "AND": TokenType.AND,
        "OR": TokenType.OR,
        "NOT": TokenType.NOT,
        "IN": TokenType.IN,
        "BETWEEN": TokenType.BETWEEN,
        "LIKE": TokenType.LIKE,
        "IS": TokenType.IS,
        "NULL": TokenType.NULL,
        "TRUE": TokenType.TRUE,
        "FALSE": TokenType.FALSE,
        "CONTAINS": TokenType.AT_GT,  # PostgreSQL's @>
        "TIMESTAMP": TokenType.TIMESTAMP,
    }
    SINGLE_TOKENS: ClassVar[dict[str, TokenType]] = {**Tokenizer.SINGLE_TOKENS, "!": TokenType.UNKNOWN}
    COMMENTS: ClassVar[list[str | tuple[str, str]]] = []  # what begins one is refused where it stands


ALLOWED = {
    *_Tokenizer.KEYWORDS.values(),
    *(TokenType.L_PAREN, TokenType.R_PAREN, TokenType.COMMA, TokenType.EQ, TokenType.LT, TokenType.GT),
    *(TokenType.DASH, TokenType.NUMBER, TokenType.STRING, TokenType.VAR, TokenType.IDENTIFIER),
}


def _tokens(text: str) -> list[Token]:
    """The words of a text that is not too long, not nested too deeply, and has no others than conditions have."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise InvalidArgument(f"is longer than {MAX_BYTES:,} bytes", field="filter")
    tokenizer = _Tokenizer()
    try:
        found = tokenizer.tokenize(text)
    except TokenError:
        last = tokenizer.tokens[-1].end + 1 if tokenizer.tokens else 0
        start = last + len(text[last:]) - len(text[last:].lstrip())
        raise _refusal(text, start, "what begins here is never closed") from None
    for token in found:
        if token.token_type not in ALLOWED:
            raise _refusal(text, token.start, f"{token.text!r} has no meaning in a filter")
        if token.comments:
            raise _refusal(text, token.start, "there are no comments in a filter")
    terms = 1 + sum(token.token_type in (TokenType.AND, TokenType.OR) for token in found)
    if terms > MAX_TERMS:
        raise InvalidArgument(f"has {terms:,} terms, more than {MAX_TERMS:,}", field="filter")
    _check_nesting(text, found)
    return list(_joined(text, found))


def _check_nesting(text: str, found: list[Token]) -> None:
    """Bound how deeply parentheses and NOT stand within each other."""
    depth, nots = 0, 0
    opened: list[int] = []
    for token in found:
        if token.token_type == TokenType.NOT:
            nots += 1
        elif token.token_type == TokenType.L_PAREN:
            opened.append(nots + 1)
            depth, nots = depth + nots + 1, 0
        else:
            nots = 0
            if token.token_type == TokenType.R_PAREN and opened:
                depth -= opened.pop()
        if depth + nots > MAX_NESTING:
            raise _refusal(text, token.start, f"is nested more than {MAX_NESTING} deep")


def _joined(text: str, found: list[Token]) -> Iterator[Token]:
    """Take a number with its sign, and TIMESTAMP as a name where no string follows."""
    words = iter([*zip(found, [*found[1:], None], strict=False)])
    for token, following in words:
        after = following.token_type if following else None
        if token.token_type == TokenType.DASH:
            if following is None or after != TokenType.NUMBER:
                raise _refusal(text, token.start, "'-' has no meaning in a filter but before a number")
            next(words)
            yield Token(TokenType.NUMBER, f"-{following.text}", token.line, token.col, token.start, following.end)
        elif token.token_type == TokenType.TIMESTAMP and after != TokenType.STRING:
            yield Token(TokenType.VAR, text[token.start : token.end + 1], token.line, token.col, token.start, token.end)
        else:
            yield token


# From tokens to a tree.


class _Parser(Parser):
    """sqlglot's parser, for the operators and their precedence, with few operands and no functions."""

    def raise_error(self, message: str, token: Token | None = None) -> NoReturn:
        token = token or self._curr
        start = token.start if token else len(self.sql)
        expected = "expected AND, OR or the end" if message.startswith("Invalid") else message
        raise _refusal(self.sql, start, expected.replace("Expecting", "expected"))

    def _parse_unary(self) -> exp.Expression:
        operand = next((parse for kind, parse in _OPERANDS.items() if self._match(kind)), None)
        if operand is None:
            self.raise_error("expected an attribute or a value")
        token = self._prev
        return operand(self).update_positions(token)

    def _parse_at_time_zone(self, this: Any) -> Any:
        return this  # AT, TIME and ZONE are names like others

    def _name(self) -> exp.Expression:
        token = self._prev
        if self._match(TokenType.L_PAREN, advance=False):
            self.raise_error("there are no functions in a filter but CONTAINS", token)
        return exp.Column(this=exp.Identifier(this=token.text, quoted=token.token_type == TokenType.IDENTIFIER))

    def _parenthesis(self) -> exp.Expression:
        inner = self._parse_disjunction()
        self._match_r_paren()
        return exp.Paren(this=inner)

    def _timestamp(self) -> exp.Expression:
        self._match(TokenType.STRING)
        return exp.Timestamp(this=exp.Literal.string(self._prev.text))

    def _call_of_contains(self) -> exp.Expression:
        arguments = self._parse_wrapped_csv(self._parse_bitwise)
        if len(arguments) != 2:
            self.raise_error("expected CONTAINS(attribute, 'item')", self._prev)
        return exp.ArrayContains(this=arguments[0], expression=arguments[1])

    def _between(self, this: exp.Expression) -> exp.Expression:
        low = self._parse_bitwise()
        if not self._match(TokenType.AND):
            self.raise_error("expected AND")
        return exp.Between(this=this, low=low, high=self._parse_bitwise())

    def _is(self, this: exp.Expression) -> exp.Expression:
        negated = self._match(TokenType.NOT)
        if not self._match(TokenType.NULL):
            self.raise_error("expected NULL")
        is_null = exp.Is(this=this, expression=exp.Null())
        return exp.Not(this=is_null) if negated else is_null

    RANGE_PARSERS: ClassVar[dict[TokenType, Callable[..., Any]]] = {
        TokenType.IN: lambda self, this: exp.In(this=this, expressions=self._parse_wrapped_csv(self._parse_bitwise)),
        TokenType.BETWEEN: _between,
        TokenType.LIKE: binary_range_parser(exp.Like),
        TokenType.IS: _is,
        TokenType.AT_GT: binary_range_parser(exp.ArrayContains),
    }


_OPERANDS: dict[TokenType, Callable[[_Parser], exp.Expression]] = {
    TokenType.VAR: _Parser._name,
    TokenType.IDENTIFIER: _Parser._name,
    TokenType.STRING: lambda self: exp.Literal.string(self._prev.text),
    TokenType.NUMBER: lambda self: exp.Literal(this=self._prev.text, is_string=False),
    TokenType.TRUE: lambda _: exp.Boolean(this=True),
    TokenType.FALSE: lambda _: exp.Boolean(this=False),
    TokenType.NULL: lambda _: exp.Null(),
    TokenType.TIMESTAMP: _Parser._timestamp,
    TokenType.NOT: lambda self: exp.Not(this=self._parse_equality()),
    TokenType.L_PAREN: _Parser._parenthesis,
    TokenType.AT_GT: _Parser._call_of_contains,
}


# From the tree to the message.


class _Reader:
    """Reads a tree against a schema."""

    def __init__(self, text: str, schema: Schema) -> None:
        self._text = text
        self._schema = schema
        self._depth = 0
        """How many conditions there are around the one that is read."""

    def condition(self, node: exp.Expression) -> Filter:
        """What is true, false or unknown of a record."""
        node = _bare(node)
        handler = _CONDITIONS.get(type(node))
        if handler is None:
            raise self._refusal(node, "expected a condition on an attribute")
        if self._depth > MAX_NESTING:
            raise self._refusal(node, f"is nested more than {MAX_NESTING} deep")
        self._depth += 1
        found = handler(self, node)
        self._depth -= 1
        return found

    def conjunction(self, node: exp.Expression) -> Filter:
        return Filter(conjunction=Filters(filters=map(self.condition, _chain(node))))

    def disjunction(self, node: exp.Expression) -> Filter:
        return Filter(disjunction=Filters(filters=map(self.condition, _chain(node))))

    def negation(self, node: exp.Expression) -> Filter:
        return _not(self.condition(node.this))

    def comparison(
        self, node: exp.Expression, operator: ComparisonOperator.ValueType, mirrored: ComparisonOperator.ValueType
    ) -> Filter:
        left, right = _bare(node.this), _bare(node.expression)
        if isinstance(left, exp.Column):
            return self._compared(left, operator, right)
        return self._compared(right, mirrored, left)

    def inequality(self, node: exp.Expression) -> Filter:
        return _not(self.comparison(node, EQUAL, EQUAL))

    def membership(self, node: exp.Expression) -> Filter:
        name, kind = self._single(node.this)
        return Filter(
            membership=Membership(attribute=name, values=[self._value(each, name, kind) for each in node.expressions])
        )

    def between(self, node: exp.Expression) -> Filter:
        column = _bare(node.this)
        low = self._compared(column, GREATER_OR_EQUAL, _bare(node.args["low"]))
        high = self._compared(column, LESS_OR_EQUAL, _bare(node.args["high"]))
        return Filter(conjunction=Filters(filters=[low, high]))

    def like(self, node: exp.Expression) -> Filter:
        name, kind = self._single(node.this)
        if kind != STRING:
            raise self._refusal(node, f"LIKE compares strings, and {name!r} is of type {NAMES_OF_TYPES[kind]}")
        pattern = PATTERN.fullmatch(self._value(node.expression, name, kind).string_value)
        if pattern is None:
            raise self._refusal(
                node.expression, r"LIKE knows only prefixes, as in 'abc%': any other %, _ or \ has a \ before it"
            )
        literal, wildcard = ESCAPED.sub(r"\1", pattern[1]), pattern[2]
        if wildcard:
            found = Filter(prefix=Prefix(attribute=name, prefix=literal))
        else:
            found = Filter(comparison=Comparison(attribute=name, operator=EQUAL, value=Value(string_value=literal)))
        return _not(found) if node.args.get("negate") else found

    def is_null(self, node: exp.Expression) -> Filter:
        return Filter(is_null=self._attribute(node.this)[0])

    def contains(self, node: exp.Expression) -> Filter:
        name, kind = self._attribute(node.this)
        if kind != STRINGS:
            raise self._refusal(node.this, f"CONTAINS looks into lists, and {name!r} is of type {NAMES_OF_TYPES[kind]}")
        item = self._value(node.expression, name, STRING)
        return Filter(contains=Contains(attribute=name, item=item.string_value))

    def flag(self, node: exp.Expression) -> Filter:
        name, kind = self._attribute(node)
        if kind != BOOLEAN:
            raise self._refusal(node, f"{name!r} is of type {NAMES_OF_TYPES[kind]}: expected a comparison")
        return Filter(comparison=Comparison(attribute=name, operator=EQUAL, value=Value(boolean_value=True)))

    def _compared(
        self, column: exp.Expression, operator: ComparisonOperator.ValueType, literal: exp.Expression
    ) -> Filter:
        name, kind = self._single(column)
        if kind == BOOLEAN and operator != EQUAL:
            raise self._refusal(column, f"{name!r} is of type boolean, for which there are only = and !=")
        value = self._value(literal, name, kind)
        return Filter(comparison=Comparison(attribute=name, operator=operator, value=value))

    def _attribute(self, node: exp.Expression) -> tuple[str, AttributeType.ValueType]:
        """An attribute's name and type."""
        node = _bare(node)
        if not isinstance(node, exp.Column):
            raise self._refusal(node, "expected an attribute")
        name = node.name
        if name in self._schema:
            return name, self._schema[name]
        if node.this.args["quoted"]:
            raise self._refusal(node, f"there is no attribute {name!r} (a string stands in single quotes)")
        listed = ", ".join(f"{known} ({NAMES_OF_TYPES[kind]})" for known, kind in sorted(self._schema.items()))
        known = listed if len(listed) <= LISTED else listed[:LISTED] + "…"
        raise self._refusal(node, f"there is no attribute {name!r}; there are {known or 'none yet'}")

    def _single(self, node: exp.Expression) -> tuple[str, AttributeType.ValueType]:
        """An attribute that is not a list."""
        name, kind = self._attribute(node)
        if kind == STRINGS:
            raise self._refusal(node, f"{name!r} is a list of strings: expected CONTAINS or IS NULL")
        return name, kind

    def _value(self, node: exp.Expression, name: str, kind: AttributeType.ValueType) -> Value:
        """A literal of an attribute's type."""
        node = _bare(node)
        try:
            value = _VALUES[kind](node)
        except ValueError as error:
            raise self._refusal(node, str(error)) from error
        if value is None:
            hint = "; a record that lacks an attribute IS NULL" if isinstance(node, exp.Null) else ""
            raise self._refusal(
                node, f"{name!r} is of type {NAMES_OF_TYPES[self._schema[name]]}: expected {EXPECTED[kind]}{hint}"
            )
        return value

    def _refusal(self, node: exp.Expression, message: str) -> InvalidArgument:
        places = (each.meta["start"] for each in node.walk(bfs=False) if "start" in each.meta)
        return _refusal(self._text, next(places, 0), message)


Handler: TypeAlias = Callable[[_Reader, exp.Expression], Filter]
_CONDITIONS: dict[type[exp.Expression], Handler] = {
    exp.And: _Reader.conjunction,
    exp.Or: _Reader.disjunction,
    exp.Not: _Reader.negation,
    exp.EQ: partial(_Reader.comparison, operator=EQUAL, mirrored=EQUAL),
    exp.NEQ: _Reader.inequality,
    exp.LT: partial(_Reader.comparison, operator=LESS, mirrored=GREATER),
    exp.LTE: partial(_Reader.comparison, operator=LESS_OR_EQUAL, mirrored=GREATER_OR_EQUAL),
    exp.GT: partial(_Reader.comparison, operator=GREATER, mirrored=LESS),
    exp.GTE: partial(_Reader.comparison, operator=GREATER_OR_EQUAL, mirrored=LESS_OR_EQUAL),
    exp.In: _Reader.membership,
    exp.Between: _Reader.between,
    exp.Like: _Reader.like,
    exp.Is: _Reader.is_null,
    exp.ArrayContains: _Reader.contains,
    exp.Column: _Reader.flag,
}


def _string(node: exp.Expression) -> Value | None:
    return Value(string_value=node.name) if isinstance(node, exp.Literal) and node.is_string else None


def _number(node: exp.Expression) -> Value | None:
    """Integers and floats compare with each other, so a literal is what it looks like."""
    if not isinstance(node, exp.Literal) or node.is_string:
        return None
    text = node.name
    if not INTEGER_LITERAL.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{text} is beyond what a float can be")
        return Value(float_value=number)
    if len(text) > len(str(-(2**63))) or not -(2**63) <= int(text) < 2**63:
        raise ValueError("an integer must fit 64 bits; 1e30 is a float")
    return Value(integer_value=int(text))


def _boolean(node: exp.Expression) -> Value | None:
    return Value(boolean_value=node.this) if isinstance(node, exp.Boolean) else None


def _timestamp(node: exp.Expression) -> Value | None:
    """To the microsecond, as shards compare; finer digits are dropped on both sides."""
    literal = node.this if isinstance(node, exp.Timestamp) else node
    if not isinstance(literal, exp.Literal) or not literal.is_string:
        return None
    text = literal.name
    try:
        moment = datetime.fromisoformat(text)
        value = Value()
        value.timestamp_value.FromDatetime(moment.astimezone(UTC) if moment.tzinfo else moment)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: expected {EXPECTED[TIMESTAMP]}") from None
    return value


_VALUES: dict[AttributeType.ValueType, Callable[[exp.Expression], Value | None]] = {
    STRING: _string,
    INTEGER: _number,
    FLOAT: _number,
    BOOLEAN: _boolean,
    TIMESTAMP: _timestamp,
}


def _bare(node: exp.Expression) -> exp.Expression:
    """What stands in parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _chain(node: exp.Expression) -> list[exp.Expression]:
    """All that one chain of AND, or of OR, joins. The parser makes a tree as deep as the chain is long."""
    kind, found, waiting = type(node), [], [node]
    while waiting:
        each = _bare(waiting.pop())
        if type(each) is kind:
            waiting += [each.expression, each.this]
        else:
            found.append(each)
    return found


def _not(condition: Filter) -> Filter:
    """True where the other is false, unknown where it is unknown."""
    return condition.negation if condition.HasField("negation") else Filter(negation=condition)
