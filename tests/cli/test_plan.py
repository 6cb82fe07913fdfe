"""`vitrail plan`: its figures are those of the code and of what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from vitrail.cli.main import app
from vitrail.cli.plan import constants
from vitrail.cli.plan.planned import Asked, NoPlan, largest, plan
from vitrail.cli.plan.report import duration, size, values
from vitrail.cli.plan.sizes import Kind, Partition
from vitrail.rpc.slots import SLOTS, slot_range
from vitrail.server import validate
from vitrail.shard import columns, documents, index, partition, wanted
from vitrail.shard.documents import Document, IdMap
from vitrail.shard.table import Table
from vitrail.v1.types_pb2 import Attributes

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart" / "values.yaml"
KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text()


def test_constants_of_the_code() -> None:
    """The client cannot import them, so they stand in a file of its own, and are the same."""
    string = sum(dtype.itemsize for part, dtype in columns.TEXT_PARTS.items() if part != "heap")
    assert constants.SLOTS == SLOTS
    assert 1 << 8 * columns.ROWS.itemsize == constants.MOST_ROWS
    assert constants.LIVE_SHARE == 1 - wanted.COMPACT_SHARE
    assert (constants.MIN_DIMENSION, constants.MAX_DIMENSION) == (validate.MIN_DIMENSION, validate.MAX_DIMENSION)
    assert constants.MOST_ATTRIBUTES_BYTES == validate.MAX_ATTRIBUTES_BYTES
    assert constants.HALF_PRECISION_FROM == partition.HALF_PRECISION_FROM
    assert constants.ID_BYTES == index.ID_BYTES
    assert (constants.ROWS_A_LIST, constants.FEWEST_ROWS) == (index.POINTS_WORTH_IT, index.SMALLEST_SAMPLE)
    assert documents.ENTRY.itemsize == constants.ENTRY_BYTES
    assert string == constants.STRING_BYTES
    assert constants.RECENT_LEAST == IdMap.MERGE_AT


@pytest.mark.parametrize("dimension", [2, 15, 16, 31, 64, 65, 100, 256, 257, 512, 1280, 4096])
def test_codes(dimension: int) -> None:
    """They are as long as those that a shard chooses."""
    assert Kind(dimension).code_bytes == index.choose_recipe(1_000_000, dimension).code_bytes


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 342, 512, 1000, 1024])
def test_the_largest_shard(shards: int) -> None:
    """Slots do not divide evenly, and the plan is for the shard that has most."""
    most = max(end - begin for begin, end in (slot_range(shard, shards) for shard in range(shards)))
    assert largest(Asked(1000 * SLOTS, Kind(512)), shards).records == 1000 * most


@pytest.mark.parametrize(("metric", "dtype"), [("cosine", np.float16), ("euclidean", np.float32)])
def test_disk(metric: index.Metric, dtype: type[np.floating], tmp_path: Path) -> None:
    """A table of rows as planned takes what was planned: strings of up to 16 bytes, ids of 24."""
    attributes = Attributes()
    for name in ("colour", "brand"):
        attributes.fields[name].string_value = "something"
    data = attributes.SerializeToString()
    table = Table(tmp_path, 128, np.dtype(dtype))
    rows = [Document(f"{row:024}", data, row) for row in range(1000)]
    table.append(np.zeros((1000, 128), dtype), rows)
    kind = Kind(128, metric, attributes=2, attributes_bytes=len(data))
    try:
        assert table.bytes() / 1000 == pytest.approx(kind.vector_bytes + kind.table_bytes, abs=1)
    finally:
        table.close()


def test_what_was_measured() -> None:
    """A shard of half a million records of 1,280 dimensions: docs/bench-1000000.txt."""
    one = Partition(Kind(1280, attributes=1, attributes_bytes=11), 500_000)
    assert one.memory == pytest.approx((228e6 + 237e6) / 2, rel=0.05)
    assert one.disk / one.records == pytest.approx((2710.8 + 2682.4) / 2, rel=0.03)
    assert one.search_seconds == pytest.approx((470e-6 + 408e-6) / 2, rel=0.01)


def test_the_log() -> None:
    """8,000 rows/s of 1,280 dimensions (docs/kubernetes.md), half a million of 512 in 35 s (docs/plan.md)."""
    assert Partition(Kind(1280), 100_000).following_seconds == pytest.approx(12.5, rel=0.05)
    assert Partition(Kind(512), 500_000).following_seconds == pytest.approx(34.9, rel=0.05)


@pytest.mark.parametrize(("dimension", "taken"), [(64, 472), (256, 1270), (384, 2147), (512, 2996), (1024, 5749)])
def test_the_store(dimension: int, taken: float) -> None:
    """Of a record in PostgreSQL: docs/plan.md."""
    assert Kind(dimension).stored_bytes == pytest.approx(taken, rel=0.03)


def test_as_few_shards_as_memory_allows() -> None:
    """One shard fewer would need more than a process may have."""
    planned = plan(Asked(100_000_000, Kind(512), shard_memory=16 * 2**30))
    fewer = plan(Asked(100_000_000, Kind(512), shards=planned.shards - 1))
    assert planned.limit <= 16 * 2**30 < fewer.limit


def test_more_than_shards_can_number() -> None:
    """Rows have 32 bits, whatever memory there is."""
    with pytest.raises(NoPlan, match=r"^--shards: 3 shards of 3,339,843,750 records, .* 3,221,225,472 at most"):
        plan(Asked(10_000_000_000, Kind(512), shards=3))
    with pytest.raises(NoPlan, match=r"^--records: 1,024 shards of 9,765,625,000 records"):
        plan(Asked(10_000_000_000_000, Kind(512), shard_memory=1e15))
    assert plan(Asked(10_000_000_000, Kind(512), shard_memory=1e15)).shards == 4


def test_queries_take_shards() -> None:
    """Smaller ones are searched faster, where memory alone would allow fewer of them."""
    planned = plan(Asked(100_000_000, Kind(512), queries=500))
    memory_alone = plan(Asked(100_000_000, Kind(512)))
    assert planned.shards > memory_alone.shards
    assert (planned.replicas, planned.shard_cores <= 1) == (2, True)
    assert plan(Asked(100_000_000, Kind(512), queries=500, shards=memory_alone.shards)).replicas == 3


def test_queries_take_processes() -> None:
    """A process searches on one core."""
    assert plan(Asked(1_000_000, Kind(512), replicas=2, shards=2)).replicas == 2
    assert plan(Asked(1_000_000, Kind(512), replicas=2, shards=2, queries=10_000)).replicas == 7


def test_values_of_the_chart() -> None:
    """What is printed is YAML, and all of it the chart knows."""
    words = ["plan", "--records", "100M", "--dimension", "512"]
    planned = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    printed = CliRunner().invoke(app, words).stdout.partition("For the chart:")[2]
    assert yaml.safe_load(printed) == planned["values"]
    known = yaml.safe_load(CHART.read_text())
    assert not _paths(planned["values"]) - _paths(known)
    assert planned["values"]["shards"] == [planned["shards"]]


def test_values_in_the_documentation() -> None:
    """Those of docs/kubernetes.md are what the command before them prints."""
    shown = yaml.safe_load(KUBERNETES.split("```yaml\n")[1].partition("```")[0])
    del shown["images"]
    assert "vitrail plan --records 10M --dimension 1280 " in KUBERNETES
    assert shown == values(plan(Asked(10_000_000, Kind(1280))))


@pytest.mark.parametrize("records", [1_000_000, 10_000_000, 100_000_000])
def test_start_up_in_the_documentation(records: int) -> None:
    """The arithmetic of docs/kubernetes.md is that of the plan."""
    one = Partition(Kind(1280), records)
    seconds = (one.opening_seconds, one.following_seconds, one.snapshot_seconds)
    assert " | ".join([f"| {records:,}", size(one.disk), *map(duration, seconds)]) + " |" in KUBERNETES


def _paths(values: object, before: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {before}
    return {path for key, value in values.items() for path in _paths(value, f"{before}/{key}")}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--records", "many"], "'--records': 'many' is no number above 0"),
        (["--records", "0"], "'--records': '0' is no number above 0"),
        (["--records", "-5"], "'--records'"),
        (["--records", "5X"], "'--records': '5X'"),
        (["--records", "100T"], "'--records'"),
        (["--records", "0.1"], "'--records'"),
        (["--dimension", "1"], "'--dimension'"),
        (["--dimension", "5000"], "'--dimension'"),
        (["--metric", "hamming"], "'--metric'"),
        (["--replicas", "0"], "'--replicas'"),
        (["--cached", "1.5"], "'--cached'"),
        (["--cached", "nan"], "'--cached'"),
        (["--queries", "-1"], "'--queries'"),
        (["--queries", "nan"], "'--queries'"),
        (["--shards", "1025"], "'--shards'"),
        (["--shard-memory", "16 apples"], "'--shard-memory'"),
        (["--shard-memory", "16GiB", "--shards", "2"], "'--shard-memory'"),
        (["--shard-memory", "100MB"], "--shard-memory: 1,024 shards, the most there can be, need"),
        (["--attributes-bytes", "20"], "'--attributes-bytes'"),
        (["--attributes-bytes", "70000", "--attributes", "1"], "'--attributes-bytes'"),
    ],
)
def test_nonsense(words: list[str], why: str) -> None:
    """It is refused by name."""
    given = ["plan", "--records", "1M", "--dimension", "512", *words]
    said = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert said.exit_code in (1, 2)
    assert why in said.output


BARE = """
import sys
for name in ("faiss", "torch", "sqlalchemy", "xxhash", "vitrail.server", "vitrail.shard"):
    sys.modules[name] = None
from vitrail.cli.main import app
app(["plan", "--records", "1M", "--dimension", "512", "--json"])
"""


def test_the_base_install() -> None:
    """It needs none of the extras."""
    said = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["shards"] == 1
