"""A write and a search of a photo, each as one trace through real processes."""

from collections.abc import Callable

import pytest

from tests.collector import CALLER, Collector, Told, calling, running_collector
from tests.e2e.running import Running, eventually
from tests.server.images import jpeg, picture
from vitrail.client import Client, NotFound, Record

Start = Callable[..., Running]
WRITE = {
    ("caller", "vitrail-coordinator", "UpsertRecords"): 1,
    ("UpsertRecords", "vitrail-coordinator", "decode"): 1,
    ("UpsertRecords", "vitrail-coordinator", "embed"): 1,
    ("embed", "vitrail-coordinator", "embed batch"): 1,
    ("UpsertRecords", "vitrail-coordinator", "write"): 1,
    ("write", "vitrail-coordinator", "write batch"): 1,
}
SEARCH = {
    ("caller", "vitrail-coordinator", "Search"): 1,
    ("Search", "vitrail-coordinator", "decode"): 1,
    ("Search", "vitrail-coordinator", "embed"): 1,
    ("embed", "vitrail-coordinator", "embed batch"): 1,
    ("Search", "vitrail-coordinator", "search"): 1,
    ("search", "vitrail-coordinator", "search batch"): 1,
    ("search batch", "vitrail-coordinator", "shard"): 2,
    ("shard", "vitrail-shard-0", "SearchBatch"): 1,
    ("shard", "vitrail-shard-1", "SearchBatch"): 1,
    ("search batch", "vitrail-coordinator", "merge"): 1,
}


def tree(spans: list[Told]) -> dict[tuple[str, str, str], int]:
    """How often each span is below which."""
    names = {span.id: span.name for span in spans} | {f"{CALLER:016x}": "caller"}
    found: dict[tuple[str, str, str], int] = {}
    for span in spans:
        key = names.get(span.parent, "not told yet"), span.service, span.name
        found[key] = found.get(key, 0) + 1
    return found


def test_a_photo(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, all batches, each shard and merging are below the caller's span; a failure is one, too."""
    with running_collector() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        running = start("--shards", "2")
        with Client(running.address) as client:
            client.create_collection("photos")
            photo = jpeg(picture())
            with calling(6):
                client.upsert("photos", [Record("hidden", image=photo, attributes={"seen": "hidden"})])
            with calling(7):
                client.search("photos", image=photo, filter="seen = 'hidden'")
            with calling(8), pytest.raises(NotFound):
                client.search("photos", like="hidden too")
        _check(collector)


def _check(collector: Collector) -> None:
    def spans() -> list[Told]:
        return collector.of(f"{7:032x}")

    eventually(lambda: tree(collector.of(f"{6:032x}")) == WRITE)
    eventually(lambda: tree(spans()) == SEARCH)
    [search] = [span for span in spans() if span.name == "Search"]
    assert {name: search.attributes[name] for name in ("collection", "top_k", "coverage")} == {
        "collection": "photos",
        "top_k": 10,
        "coverage": 1.0,
    }
    for span in spans():
        assert search.start - 0.001 <= span.start <= span.end <= search.end + 0.05
    eventually(lambda: [span.failed for span in collector.of(f"{8:032x}")] == [True])
    assert "hidden" not in str(collector.spans)
