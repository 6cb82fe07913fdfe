"""`vitrail bench`: its arithmetic, and a small run against a real cluster."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from tests.e2e.running import Running, eventually
from typer.testing import CliRunner, Result

from vitrail.cli.bench import BenchFailed, chart, figures, report, searches, sweep, truth, usage
from vitrail.cli.bench.figures import Adding, Build, Figures, Filtered, Ingestion, Point, Rate, Recall, Setting, Space
from vitrail.cli.bench.given import Given, check, open_files
from vitrail.cli.bench.loops import arrivals, closed, opened, percentiles
from vitrail.cli.bench.recall import NOT_ASKED, recall
from vitrail.cli.bench.truth import Truth, exact
from vitrail.cli.main import app
from vitrail.client import Client
from vitrail.client.models import Metric

POINT = Point(8, 10, False, 0.9, 100)
FIGURES = Figures(
    setting=Setting(
        "cpu, 2 cores", "a:1", {"faiss": "1"}, "data", 1000, 8, 10, "cosine", 2, ["Flat"], "X", 2, 100, 1, ""
    ),
    ingestion=Ingestion(100, 10, 11, None, 12),
    build=Build(1, 100, 200, 1e6, 1e5, 1e4, 100),
    space=[Space("coordinator", "anonymous", 1, 2, 10, 0.1, None), Space("shard 0", "", None, None, 10, None, None)],
    recall=[Recall(1, 1.0, None)],
    alone=[Rate("FAISS in process", 1000, (1, 2, 3), 0.9, cpu={"FAISS": 10})],
    rates=[
        Rate("16 callers", 250, None, None, {"FAISS in process": 0.25}, errors={"UNAVAILABLE": 3}, cpu={"client": None})
    ],
    open_loop=[Rate("25%", 60, (1, 2, 3), offered=62, late=0.5)],
    curve=[POINT],
    alone_curve=[POINT, Point(0, 0, True, 1.0, 10)],
    targets=[figures.Target(0.9, 0.91, 0.0, 8, 0.0, 100)],
    filters=[Filtered("f < 100", 0.0001, error="the server does not filter")],
    adding=Adding((1, 2, 3), None, 0, 10),
)


def given(rows: int = 500, dimension: int = 8, metric: Metric = "cosine", cache: Path | None = None) -> Given:
    random = np.random.default_rng(3)
    base, queries = (random.standard_normal((count, dimension)).astype(np.float32) for count in (rows, 20))
    return Given("random", base, queries, metric, cache)


def scores_of(data: Given) -> NDArray[Any]:
    """Every score, the plain way."""
    base, queries = data.base.astype(np.float64), data.queries.astype(np.float64)
    if data.metric == "euclidean":
        return np.array([[-((row - query) ** 2).sum() for row in base] for query in queries])
    if data.metric == "cosine":
        base, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, queries))
    products: NDArray[Any] = queries @ base.T
    return products


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("passing", [500, 100, 3, 0])
def test_truth(metric: Metric, passing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth found block by block is that of sorting every score, among the rows that pass."""
    monkeypatch.setattr("vitrail.cli.bench.given.BLOCK_BYTES", 4 * 8 * 64)
    monkeypatch.setattr(truth, "SCORES", 10_000 * 7)
    data = given(metric=metric)
    mask = np.zeros(500, np.bool_)
    mask[np.random.default_rng(0).permutation(500)[:passing]] = True
    everything, some = exact(data, 10, [np.ones(500, np.bool_), mask])
    scores = scores_of(data)
    assert everything.rows.tolist() == np.argsort(-scores, axis=1)[:, :10].tolist()
    wanted = np.argsort(-np.where(mask, scores, -np.inf), axis=1)[:, : min(10, passing)]
    assert some.rows[:, : min(10, passing)].tolist() == wanted.tolist()
    assert (some.rows[:, passing:] == -1).all()
    assert some.width == min(10, passing)


def test_truth_is_kept(tmp_path: Path) -> None:
    """It is computed once for the same vectors, and again where a file is damaged or a query differs."""
    data = given(cache=tmp_path)
    everything = np.ones(500, np.bool_)
    [first] = exact(data, 5, [everything])
    [kept] = tmp_path.iterdir()
    [again] = exact(data, 5, [everything])
    assert (again.rows == first.rows).all()
    kept.write_bytes(b"damaged")
    [again] = exact(data, 5, [everything])
    assert (again.rows == first.rows).all()
    exact(Given("random", data.base, data.queries + 1, "cosine", tmp_path), 5, [everything])
    assert len(list(tmp_path.iterdir())) == 2


def test_recall() -> None:
    """Hits count over the queries that were asked, and over as many rows as there are."""
    data = given()
    [true] = exact(data, 10, [np.ones(500, np.bool_)])
    assert recall(data, true, true.rows, 10) == 1.0
    half = true.rows.copy()
    half[:, 5:] = -1
    assert recall(data, true, half, 10) == 0.5
    assert recall(data, true, half, 1) == 1.0
    half[1:] = NOT_ASKED
    assert recall(data, true, half, 5) == 1.0
    assert recall(data, true, np.full((20, 10), NOT_ASKED), 10) is None
    nothing = Truth(true.scores, np.full((20, 10), -1))
    assert recall(data, nothing, true.rows, 10) is None


def test_recall_takes_a_tie_for_what_it_is() -> None:
    """Which of two equal vectors is found does not matter, and a tolerance lets near ones count."""
    base = np.array([[1, 0], [1, 0], [1, 0.01], [0, 1]], np.float32)
    data = Given("ties", base, base[:1], "inner_product")
    true = Truth(np.array([[1.0]], np.float32), np.array([[0]]))
    assert recall(data, true, np.array([[1]]), 1) == 1.0
    assert recall(data, true, np.array([[3]]), 1) == 0.0
    rotated = Given("near", np.array([[1, 0], [0.9995, 0]], np.float32), base[:1], "inner_product")
    assert recall(rotated, true, np.array([[1]]), 1) == 0.0
    assert recall(rotated, true, np.array([[1]]), 1, tolerance=1e-3) == 1.0


def test_percentiles() -> None:
    """In milliseconds; none where nothing was answered."""
    found = percentiles(np.arange(1, 101) / 1000)
    assert found == pytest.approx((50.5, 95.05, 99.01))
    assert percentiles(np.empty(0)) is None


def test_arrivals() -> None:
    """A Poisson process: as many as the rate says, gaps that are exponential, the same each time."""
    due = arrivals(200, 50)
    assert due.tolist() == arrivals(200, 50).tolist()
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert (np.diff(due) > 0).all()
    assert due[-1] < 50
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


async def test_open_loop_charges_a_stall_to_everybody_who_waits() -> None:
    """Latency counts from when a call was to be made, also where the loop could not make it then."""
    due = np.array([0.0, 0.01, 0.02, 0.03])

    async def stalls_once(number: int) -> bool:
        if number == 0:
            time.sleep(0.2)  # noqa: ASYNC251 - nothing else can run, as when this process is not scheduled
        return number < 3

    log = await opened(stalls_once, due)
    assert log.failed == 1
    assert log.starts.tolist() == [0.0, 0.01, 0.02]
    assert (log.latencies >= 0.2 - due[:3]).all()
    assert log.late.max() >= 0.15


async def test_closed_loop() -> None:
    """So many callers ask again and again, at least as often as wanted, until they are told to stop."""
    running, most = 0, 0

    async def call(number: int) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number % 10 != 9

    log = await closed(call, 4, 0.0, at_least=40)
    assert most == 4
    assert len(log.latencies) + log.failed >= 40
    assert log.failed >= 4
    assert len((await closed(call, 4, 60.0, stopped=lambda: True)).latencies) == 0


def test_front() -> None:
    """A curve is drawn through what no other point beats."""
    points = [
        Point(n, 1, False, found, rate) for n, found, rate in [(1, 0.5, 90), (2, 0.6, 100), (3, 0.9, 40), (4, 0.8, 30)]
    ]
    assert [point.nprobe for point in sweep.front(points)] == [2, 3]


def test_lists() -> None:
    """They are read from the recipes, and probed in powers of two."""
    assert sweep.lists_of(["PCAR256,IVF300,PQ128x4fs", "IVF310,Flat", "Flat"]) == 310
    assert sweep.lists_of(["Flat"]) == 0
    assert sweep.nprobes(10) == [1, 2, 4, 8, 10]
    assert sweep.nprobes(8) == [1, 2, 4, 8]


def test_usage() -> None:
    """Anonymous memory where a process tells it, else resident, and it says which."""
    text = '# HELP x\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 2e+06\nother{a="b c"} 1\n'
    assert usage.read(text) == usage.Usage(1.5, 2_000_000, "resident")
    assert usage.read(text + "vitrail_anonymous_bytes 7\n") == usage.Usage(1.5, 7, "anonymous")
    assert usage.read("") == usage.Usage()
    before, after = ({"a": usage.Usage(seconds), "b": usage.Usage()} for seconds in (1.0, 3.0))
    assert usage.cpu_used(before, after) == {"a": 2.0, "b": None}


def test_masks_are_of_the_conditions() -> None:
    """The rows that pass are those whose value is below the condition's."""
    assert searches.conditions() == ["f < 100000", "f < 10000", "f < 1000", "f < 100"]
    shares = [mask.mean() for mask in searches.masks(200_000)]
    assert shares == pytest.approx([0.1, 0.01, 0.001, 0.0001], rel=0.5)


def test_tables() -> None:
    """Every table is built, also where the server tells little, and JSON holds every figure."""
    console = Console(width=200, record=True, quiet=True)
    for table in report.tables(FIGURES):
        console.print(table)
    assert len(report.tables(FIGURES)) == 9
    text = "\n".join(
        cell for table in report.tables(FIGURES) for column in table.columns for cell in map(str, column.cells)
    )
    for expected in ("A  FAISS in process", "0.250", "0.0100%", "the server does not filter", "not told", "91"):
        assert expected in text
    assert set(json.loads(json.dumps(asdict(FIGURES)))) == {field.name for field in fields(Figures)}


def test_picture(tmp_path: Path) -> None:
    """It is a PNG with something on it."""
    chart.draw(FIGURES, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG"
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.ones((20, 3), np.int64), "holds int64"),
        (np.ones(20, np.float32), "not floats [n, d]"),
        (np.ones((20, 1), np.float32), "not 2 to 4,096"),
        (np.ones((20, 4097), np.float32), "not 2 to 4,096"),
        (np.ones((0, 4), np.float32), "no vectors"),
        (np.ones((9, 4), np.float32), "too few"),
        (np.array([[{}]]), "not a .npy file of numbers"),
        (b"junk", "not a .npy file of numbers"),
    ],
)
def test_wrong_files(array: Any, problem: str, tmp_path: Path) -> None:
    """They are refused before anything is loaded, and the message says what is wrong."""
    path = tmp_path / "v.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    with pytest.raises(BenchFailed, match=problem.replace("[", r"\[")):
        open_files(path, None, "cosine", None)


def test_wrong_numbers(tmp_path: Path) -> None:
    """A NaN, an infinity, or a vector without a direction is named by its row; queries must fit."""
    base = np.ones((100, 4), np.float16)
    for value, metric, problem in [(np.nan, "euclidean", "NaN"), (np.inf, "cosine", "NaN"), (0, "cosine", "direction")]:
        base[7] = value
        np.save(tmp_path / "v.npy", base)
        with pytest.raises(BenchFailed, match=f"vector 7 .*{problem}"):
            check(open_files(tmp_path / "v.npy", None, metric, None))  # type: ignore[arg-type]
    check(open_files(tmp_path / "v.npy", None, "euclidean", None))
    np.save(tmp_path / "q.npy", np.ones((3, 5), np.float32))
    with pytest.raises(BenchFailed, match="5 dimensions, vectors 4"):
        open_files(tmp_path / "v.npy", tmp_path / "q.npy", "cosine", None)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("bench") / "data"
    running = Running(data, "--shards", "2", "--port", "0", "--metrics-port", "0")
    yield running
    running.stop()


def bench(*words: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_wrong_options(tmp_path: Path) -> None:
    """They end the command with one line."""
    np.save(tmp_path / "v.npy", np.ones((100, 4), np.float32))
    assert "no list of numbers" in bench("--vectors", tmp_path / "v.npy", "--callers", "1,x").output
    assert "no .png" in bench("--vectors", tmp_path / "v.npy", "--plot", tmp_path / "p.svg").output
    assert "no .png" in bench("--vectors", tmp_path / "v.npy", "--plot", tmp_path / "none/p.png").output
    unreachable = bench("--vectors", tmp_path / "v.npy", "--address", "127.0.0.1:1", "--seconds", 0.1)
    assert unreachable.exit_code == 1
    assert unreachable.stderr.startswith("error: 127.0.0.1:1 does not answer")


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    np.save(tmp_path / "v.npy", np.ones((100, 4), np.float32))
    monkeypatch.setitem(sys.modules, "vitrail.cli.bench.run", None)
    result = bench("--vectors", tmp_path / "v.npy")
    assert result.exit_code == 1
    assert "pip install 'vitrail[bench]'" in result.stderr


def test_ctrl_c_deletes_the_collection(tmp_path: Path, cluster: Running) -> None:
    """However a run ends, what it made on the server goes with it."""
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32))
    words = ["bench", "--address", cluster.address, "--vectors", str(tmp_path / "v.npy"), "--seconds", "60"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    process = subprocess.Popen([sys.executable, "-m", "vitrail.cli.main", *words], stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    with Client(cluster.address) as client:
        eventually(lambda: any(client.stats(made.name).records for made in client.list_collections()), 120)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert b"Traceback" not in errors
        assert list(client.list_collections()) == []


def test_against_a_cluster(tmp_path: Path, cluster: Running) -> None:
    """Figures of a small run are consistent, the picture is one, and nothing is left behind."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((100, 32))
    vectors = centres[random.integers(100, size=2200)] + 0.4 * random.standard_normal((2200, 32))
    np.save(tmp_path / "v.npy", vectors.astype(np.float16))
    result = bench(
        *("--address", cluster.address, "--vectors", tmp_path / "v.npy", "--count", 2000, "--seconds", 0.2),
        *("--callers", "1,4", "--batch", 50, "--plot", tmp_path / "p.png", "--json"),
    )
    assert result.exit_code == 0, result.output
    with Client(cluster.address) as client:
        assert list(client.list_collections()) == []
    found = json.loads(result.stdout)
    assert (found["setting"]["vectors"], found["setting"]["dimension"], found["setting"]["shards"]) == (1980, 32, 2)
    exact_points = [found["curve"][-1], found["alone_curve"][-1]]
    assert [point["exact"] for point in exact_points] == [True, True]
    assert all(point["recall"] > 0.995 for point in exact_points)
    assert found["curve"][0]["default"]
    assert all(0.5 < one["server"] <= 1 for one in found["recall"])
    for rate in (*found["rates"], *found["open_loop"]):
        p50, p95, p99 = rate["milliseconds"]
        assert 0 < p50 <= p95 <= p99
        assert rate["per_second"] > 0
        assert rate["errors"] == {}
        assert set(rate["cpu"]) == {"client", "coordinator", "shard 0", "shard 1"}
    assert all(rate["offered"] > 0 for rate in found["open_loop"])
    assert found["ingestion"]["upserted"] <= found["ingestion"]["applied"] <= found["ingestion"]["at_rest"]
    assert all(space["full"] > 0 for space in found["space"])
    assert [one["condition"] for one in found["filters"]] == ["", *searches.conditions()]
    assert found["filters"][0]["recall"] > 0.5
    assert found["adding"]["rows_per_second"] > 0
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG"
