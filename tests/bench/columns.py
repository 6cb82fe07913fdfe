"""How long filters take on columns, beside one plain comparison of as many integers: `python -m tests.bench.columns`.

The rows go in as the log brings them, in batches of serialized messages, and are copied once as compaction copies.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vitrail.shard.columns import Columns
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Contains, Filter, Filters, Membership, Prefix
from vitrail.v1.types_pb2 import Attributes, Value

BATCH, SLICE = 2_000, 10_000
CATEGORIES = 20
TAGS = 1_000


def attributes(row: int, random: np.random.Generator) -> bytes:
    message = Attributes()
    fields = message.fields
    fields["number"].integer_value = int(random.integers(0, 1_000_000))
    fields["price"].float_value = float(random.random() * 100)
    fields["category"].string_value = f"cat-{row % CATEGORIES}"
    fields["long_category"].string_value = f"Home, kitchen and furniture, part {row % CATEGORIES}"
    fields["sku"].string_value = f"sku-{row:08d}"
    fields["url"].string_value = f"https://images.example.com/catalog/{row:08d}.jpg"
    fields["tags"].strings_value.values.extend(f"tag-{tag}" for tag in random.integers(0, TAGS, 3))
    if row % 2:
        fields["sometimes"].integer_value = row % 1000
    return message.SerializeToString()


def comparison(name: str, operator: str, value: Value) -> Filter:
    code = ComparisonOperator.Value(f"COMPARISON_OPERATOR_{operator}")
    return Filter(comparison=Comparison(attribute=name, operator=code, value=value))


def text(name: str, operator: str, value: str) -> Filter:
    return comparison(name, operator, Value(string_value=value))


def integer(name: str, operator: str, value: int) -> Filter:
    return comparison(name, operator, Value(integer_value=value))


def one_of(name: str, values: list[str]) -> Filter:
    return Filter(membership=Membership(attribute=name, values=[Value(string_value=value) for value in values]))


def prefix(name: str, value: str) -> Filter:
    return Filter(prefix=Prefix(attribute=name, prefix=value))


def every(*terms: Filter) -> Filter:
    return Filter(conjunction=Filters(filters=terms))


def some(*terms: Filter) -> Filter:
    return Filter(disjunction=Filters(filters=terms))


def no(term: Filter) -> Filter:
    return Filter(negation=term)


def asked(rows: int) -> dict[str, Filter]:
    some_rows = np.random.default_rng(1).integers(0, rows, 100).tolist()
    middle = f"{rows // 2:08d}"
    low, high = integer("number", "GREATER_OR_EQUAL", 250_000), integer("number", "LESS", 750_000)
    numbers = [Value(integer_value=number) for number in range(0, 1_000_000, 10_000)]
    return {
        "a numeric range": every(low, high),
        "a numeric range, half of the rows without": no(integer("sometimes", "LESS", 300)),
        "an integer column and a float": comparison("number", "LESS", Value(float_value=500_000.5)),
        "integer in 100": Filter(membership=Membership(attribute="number", values=numbers)),
        "string equal, 20 distinct": text("category", "EQUAL", "cat-7"),
        "long string equal, 20 distinct": text("long_category", "EQUAL", "Home, kitchen and furniture, part 7"),
        "string equal, all distinct": text("sku", "EQUAL", f"sku-{middle}"),
        "long string equal, all distinct": text("url", "EQUAL", f"https://images.example.com/catalog/{middle}.jpg"),
        "in 100, 20 distinct": one_of("category", [f"cat-{n}" for n in range(10, 110)]),
        "in 100, all distinct": one_of("sku", [f"sku-{row:08d}" for row in some_rows]),
        "long in 100, all distinct": one_of(
            "url", [f"https://images.example.com/catalog/{row:08d}.jpg" for row in some_rows]
        ),
        "prefix, 20 distinct": prefix("category", "cat-1"),
        "prefix, all distinct": prefix("sku", "sku-000123"),
        "long prefix, all distinct": prefix("url", "https://images.example.com/catalog/000123"),
        "string less, all distinct": text("sku", "LESS", f"sku-{middle}"),
        "long string less, all distinct": text("url", "LESS", f"https://images.example.com/catalog/{middle}.jpg"),
        "contains": Filter(contains=Contains(attribute="tags", item="tag-7")),
        "not contains": no(Filter(contains=Contains(attribute="tags", item="tag-7"))),
        "null": Filter(is_null="sometimes"),
        "five terms": every(
            low, no(text("category", "EQUAL", "cat-7")), some(high, prefix("sku", "sku-0001"), Filter(is_null="price"))
        ),
        "five terms of long strings": some(
            text("long_category", "EQUAL", "Home, kitchen and furniture, part 7"),
            every(prefix("url", "https://images.example.com/catalog/000123"), low),
            no(text("url", "GREATER", f"https://images.example.com/catalog/{middle}.jpg")),
            text("sku", "EQUAL", f"sku-{middle}"),
        ),
    }


def milliseconds(function: Callable[[], object], times: int = 15) -> float:
    """CPU time, which other work on the machine touches least: the best of some runs."""
    function()
    taken = []
    for _ in range(times):
        start = time.thread_time()
        function()
        taken.append(time.thread_time() - start)
    return min(taken) * 1000


def fill(columns: Columns, rows: int) -> float:
    """Append rows; microseconds a row, without the making of them."""
    random, taken = np.random.default_rng(0), 0.0
    for first in range(0, rows, BATCH):
        batch = [attributes(row, random) for row in range(first, min(first + BATCH, rows))]
        start = time.thread_time()
        columns.append(first, batch)
        taken += time.thread_time() - start
    return taken / rows * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory:
        columns = Columns(Path(directory))
        print(f"append: {fill(columns, rows):.2f} µs a row of 7.5 attributes (3 items in the list)")
        size = sum(file.size for file in columns.files)
        print(f"on disk: {size / rows:.0f} bytes a row")
        values = np.random.default_rng(2).integers(0, 1_000_000, rows)
        plain = milliseconds(lambda: values < 500_000)
        print(f"{'ms':>8} {'× plain':>8} {'passing':>8}  {rows:,} rows")
        print(f"{plain:8.2f} {1:8.1f} {(values < 500_000).mean():8.4f}  one plain comparison of int64")
        for name, filter in asked(rows).items():
            taken = milliseconds(lambda filter=filter: columns.matches(filter, 0, rows))  # type: ignore[misc]
            print(f"{taken:8.2f} {taken / plain:8.1f} {columns.matches(filter, 0, rows).mean():8.4f}  {name}")
        (Path(directory) / "copy").mkdir()
        copy = Columns(Path(directory) / "copy")
        live = np.flatnonzero(np.random.default_rng(3).random(rows) < 0.5)
        start = time.thread_time()
        for first in range(0, len(live), SLICE):
            copy.copy_rows(columns, live[first : first + SLICE], first)
        print(f"copy: {time.thread_time() - start:.2f} s for {len(live):,} of the rows")
        copy.close()
        columns.close()


if __name__ == "__main__":
    main()
