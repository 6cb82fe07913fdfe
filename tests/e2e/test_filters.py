"""Filters over a real cluster: each beside the same condition in Python, before training and after."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.e2e.running import Running, eventually, wait_applied, wait_trained
from tests.shard.rows import clustered
from vitrail.client import Client, InvalidArgument, ItemError, Record, SearchResult, Unavailable

Attributes = Mapping[str, Any]

COUNT, DIMENSION = 600, 16
START = datetime(2026, 1, 1, tzinfo=UTC)
COLOURS = ("red", "green", "blue")


def attributes(index: int) -> dict[str, Any]:
    """Of the record of this number; every seventh has none, every fifth lacks its price."""
    if index % 7 == 0:
        return {}
    made = {
        "n": index,
        "price": index / 4,
        "category": f"shoes/{index % 10}" if index % 2 else "hats",
        "in_stock": index % 3 == 0,
        "at": START + timedelta(hours=index),
        "tags": [COLOURS[index % 3], "all"] if index % 4 else [],
    }
    return {name: value for name, value in made.items() if name != "price" or index % 5}


EVERYTHING = {f"r{index:03}": attributes(index) for index in range(COUNT)}

FILTERS: dict[str, Callable[[Attributes], bool]] = {
    "n = 11": lambda a: a.get("n") == 11,
    "n != 11": lambda a: "n" in a and a["n"] != 11,
    "n < 10.5": lambda a: "n" in a and a["n"] < 10.5,
    "590 <= n": lambda a: a.get("n", 0) >= 590,
    "price BETWEEN 10 AND 20.25": lambda a: 10 <= a.get("price", -1) <= 20.25,
    "price NOT BETWEEN 10 AND 20.25": lambda a: "price" in a and not 10 <= a["price"] <= 20.25,
    "price IN (1.5, 2, 1000)": lambda a: a.get("price") in (1.5, 2),
    "price IS NULL": lambda a: "price" not in a,
    "price IS NOT NULL AND n < 50": lambda a: "price" in a and a["n"] < 50,
    "category = 'hats'": lambda a: a.get("category") == "hats",
    "category LIKE 'shoes/%'": lambda a: a.get("category", "").startswith("shoes/"),
    "category NOT LIKE 'shoes/%'": lambda a: "category" in a and not a["category"].startswith("shoes/"),
    "category < 'shoes/3'": lambda a: "category" in a and a["category"] < "shoes/3",
    "category NOT IN ('hats', 'shoes/1')": lambda a: "category" in a and a["category"] not in ("hats", "shoes/1"),
    "in_stock": lambda a: a.get("in_stock") is True,
    "NOT in_stock": lambda a: a.get("in_stock") is False,
    "at >= '2026-01-20' AND at < TIMESTAMP '2026-01-21T12:00:00+12:00'": lambda a: (
        "at" in a and START + timedelta(days=19) <= a["at"] < START + timedelta(days=20)
    ),
    "tags CONTAINS 'red'": lambda a: "red" in a.get("tags", ()),
    "NOT CONTAINS(tags, 'red')": lambda a: "tags" in a and "red" not in a["tags"],
    "tags IS NULL": lambda a: "tags" not in a,
    "NOT (category = 'hats' OR price < 100)": lambda a: (
        a.get("category", "hats") != "hats" and a.get("price", 0) >= 100
    ),
    "category = 'hats' OR price < 5 AND NOT in_stock": lambda a: (
        a.get("category") == "hats" or (a.get("price", 9) < 5 and a.get("in_stock") is False)
    ),
    "n = 11 OR n IS NULL": lambda a: a.get("n", 11) == 11,
    "n > 100000": lambda _: False,
}


def expected(text: str) -> list[str]:
    return [name for name, values in EVERYTHING.items() if FILTERS[text](values)]


def ids(result: SearchResult | ItemError) -> set[str]:
    assert isinstance(result, SearchResult)
    return {hit.id for hit in result.hits}


def written(client: Client, name: str, train_at: int) -> str:
    client.create_collection(name, dimension=DIMENSION, train_at=train_at)
    vectors = clustered(COUNT, DIMENSION)
    result = client.upsert(name, ids=list(EVERYTHING), vectors=vectors, attributes=list(EVERYTHING.values()))
    assert result.errors == ()
    wait_applied(client, name)
    return name


@pytest.fixture(scope="module", params=["exact", "trained"])
def filled(cluster: Running, request: pytest.FixtureRequest) -> Iterator[str]:
    """A collection with all records, whose partitions are trained or never will be."""
    with Client(cluster.address) as client:
        name = written(client, f"filters-{request.param}", 10_000 if request.param == "exact" else 100)
        if request.param == "trained":
            wait_trained(client, name)
        yield name
        client.delete_collection(name)


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_lets_through_what_meets_it(client: Client, filled: str, text: str) -> None:
    """All of it, nothing else, and the answer says how many that are."""
    result = client.search(filled, vector=np.ones(DIMENSION), top_k=COUNT, exact=True, filter=text)
    assert sorted(hit.id for hit in result.hits) == expected(text)
    assert result.index.matching == len(expected(text))
    assert result.coverage.fraction == 1.0


@pytest.mark.parametrize("text", FILTERS)
def test_the_nearest_of_what_meets_it_are_found(client: Client, filled: str, text: str) -> None:
    """As by exact search, alone and in a batch, however few there are."""
    queries = clustered(20, DIMENSION)
    truth = client.search_batch(filled, vectors=queries, filter=text, exact=True)
    found = client.search_batch(filled, vectors=queries, filter=text)
    alone = [client.search(filled, vector=query, filter=text) for query in queries[:3]]
    best = list(map(ids, truth))
    shares = [
        len(ids(result) & right) / len(right) if right else 1.0
        for result, right in zip([*found, *alone], [*best, *best[:3]], strict=True)
    ]
    assert np.mean(shares) >= 0.95
    assert all(len(result.hits) == min(10, len(expected(text))) for result in alone)


def test_neighbours_with_other_filters_get_their_own(client: Client, filled: str) -> None:
    """A filter is the caller's alone, also for the same query at the same time."""
    query = np.ones(DIMENSION)
    for text in ("in_stock", "NOT in_stock", None, "in_stock"):
        result = client.search(filled, vector=query, top_k=COUNT, exact=True, filter=text)
        assert len(result.hits) == (COUNT if text is None else len(expected(text)))
        assert text is not None or result.index.matching == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 'red'", "there is no attribute 'colour'"),
        ("price = 'cheap'", "'price' is of type float"),
        ("price <", "at the end"),
        ("(" * 1000 + "in_stock" + ")" * 1000, "nested"),
        ("n = 1 OR " * 120_000 + "n = 1", "8,192 bytes"),
    ],
)
def test_a_bad_filter_is_refused(client: Client, filled: str, text: str, message: str) -> None:
    """By every method that takes one, with the place, and the next one is answered as ever."""
    for call in (
        lambda: client.search(filled, vector=np.ones(DIMENSION), filter=text),
        lambda: client.search_batch(filled, vectors=np.ones((2, DIMENSION)), filter=text),
        lambda: client.delete(filled, filter=text),
    ):
        with pytest.raises(InvalidArgument, match=message) as caught:
            call()
        assert caught.value.field == "filter"
    assert client.search(filled, vector=np.ones(DIMENSION), filter="in_stock").hits


def test_an_attribute_that_changes_is_filtered_as_it_is(client: Client, name: str) -> None:
    """Also where only the attributes were written again, and where its integers became floats."""
    client.create_collection(name, dimension=DIMENSION)
    client.upsert(name, [Record("a", vector=np.ones(DIMENSION), attributes={"n": 1}),
                         Record("b", vector=np.ones(DIMENSION), attributes={"n": 2})])  # fmt: skip
    client.upsert(name, [Record("a", attributes={"n": 2.5})])
    wait_applied(client, name)
    for text, right in (("n = 1", []), ("n > 1", ["a", "b"]), ("n > 2.25", ["a"]), ("n = 2", ["b"])):
        assert [hit.id for hit in client.search(name, vector=np.ones(DIMENSION), filter=text).hits] == right


def test_deleting_by_filter(client: Client, name: str) -> None:
    """What was written just before the call is deleted too; the rest stays."""
    written(client, name, 10_000)
    client.upsert(name, [Record("last", vector=np.ones(DIMENSION), attributes={"category": "hats"})])
    gone = expected("category = 'hats'")
    assert client.delete(name, filter="category = 'hats'").deleted == len(gone) + 1
    assert {record.id for record in client.list(name)} == EVERYTHING.keys() - set(gone)
    assert client.delete(name, filter="category = 'hats'").deleted == 0
    wait_applied(client, name)
    assert client.search(name, vector=np.ones(DIMENSION), filter="category = 'hats'").hits == ()


def test_nothing_is_deleted_while_a_shard_is_away(start: Callable[..., Running]) -> None:
    """The caller is told; once the shard is back, it works."""
    running = start("--shards", "2")
    with Client(running.address, retries=0) as client:
        written(client, "c", 10_000)
        shard = running.children()["shard-1"]
        shard.suspend()
        with pytest.raises(Unavailable):
            client.delete("c", filter="in_stock", timeout=2.0)
        assert client.stats("c").records == COUNT
        shard.resume()
        eventually(lambda: all(partition.reachable for partition in client.stats("c").partitions))
        assert client.delete("c", filter="in_stock").deleted == len(expected("in_stock"))
