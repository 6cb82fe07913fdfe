"""The commands of a client, as a user types them."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.client.fakes import Fake
from tests.client.pictures import photo
from typer.testing import CliRunner, Result

from vitrail.cli.main import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three hats, one of them broken."""
    (tmp_path / "photos/hat").mkdir(parents=True)
    for seed in range(2):
        (tmp_path / f"photos/hat/{seed}.png").write_bytes(photo(seed))
    (tmp_path / "photos/hat/broken.png").write_bytes(b"junk")
    return tmp_path / "photos"


class Shell:
    """`vitrail …` against a coordinator."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *words: object, stdin: str = "") -> Result:
        environment = {"VITRAIL_ADDRESS": self.address}
        return CliRunner().invoke(app, [str(word) for word in words], input=stdin, env=environment)


@pytest.fixture
def vitrail(fake: Fake) -> Shell:
    return Shell(fake.address)


def test_index_creates_the_collection_and_resumes(vitrail: Shell, fake: Fake, folder: Path) -> None:
    """A folder is written with the default embedder, bad files are listed, and a second run skips."""
    first = vitrail("index", folder, "--collection", "c", "--train-at", 50, "--thumbnails")
    assert first.exit_code == 0
    assert "indexed 2, skipped 0, failed 1" in first.stdout
    assert str(folder / "hat/broken.png") in first.stdout
    made = fake.collections["c"]
    assert (made.embedder, made.train_at, made.thumbnails) == ("default", 50, True)
    assert "indexed 0, skipped 2, failed 1" in vitrail("index", folder, "-c", "c").stdout


def test_index_in_parts(vitrail: Shell, folder: Path) -> None:
    """Each part has its own files, and all of them together everything."""
    reports = [json.loads(vitrail("index", folder, "-c", "c", "--part", f"{n}/2", "--json").stdout) for n in (1, 2)]
    assert sum(report["indexed"] for report in reports) == 2
    assert sum(len(report["failed"]) for report in reports) == 1


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/2/3", "one/2", "1/0", ""])
def test_no_such_part(vitrail: Shell, fake: Fake, folder: Path, part: str) -> None:
    """The option is named, and nothing asked."""
    refused = vitrail("index", folder, "-c", "c", "--part", part)
    assert refused.exit_code == 2
    assert "--part" in refused.stderr
    assert "K/N" in refused.stderr
    assert not fake.requests


def test_index_as_json(vitrail: Shell, folder: Path) -> None:
    """With --json, standard output is the report and nothing else."""
    report = json.loads(vitrail("index", folder, "-c", "c", "--json").stdout)
    assert (report["indexed"], report["skipped"]) == (2, 0)
    assert report["failed"] == [{"path": str(folder / "hat/broken.png"), "message": "not an image"}]


def test_search_prints_a_table(vitrail: Shell, folder: Path) -> None:
    """Rank, score, id and attributes of each hit, and in one line what was searched and how."""
    vitrail("index", folder, "-c", "c")
    result = vitrail("search", "-c", "c", "--image", folder / "hat/1.png", "-k", 1)
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "hat/1.png" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["1", "1.0000", "hat/1.png", "category=hat"]
    assert "coverage 0.500: 2 of 4 records on 1 of 2 shards; exact; 2.0 ms" in result.stdout


def test_search_with_a_filter(vitrail: Shell, fake: Fake, folder: Path) -> None:
    """The filter and the target recall travel, and the line says what came of them."""
    vitrail("index", folder, "-c", "c")
    words = ["search", "-c", "c", "--like", "hat/0.png", "--filter", "category = 'hat'", "--target-recall", 0.75]
    printed = vitrail(*words).stdout
    assert "7 records meet the filter" in printed
    (request,) = fake.requests["SearchRequest"]
    assert (request.filter, request.parameters.target_recall) == ("category = 'hat'", 0.75)
    found = json.loads(vitrail(*words, "--json").stdout)
    assert (found["index"]["matching"], found["index"]["recall"]) == (7, 0.75)


@pytest.mark.parametrize("kind", ["image", "like", "vector"])
def test_search_as_json(vitrail: Shell, folder: Path, tmp_path: Path, kind: str) -> None:
    """A photo, an id and a .npy file are queries; --json gives hits and figures."""
    vitrail("index", folder, "-c", "c")
    np.save(tmp_path / "v.npy", np.ones(4))
    query = {"image": folder / "hat/0.png", "like": "hat/0.png", "vector": tmp_path / "v.npy"}[kind]
    found = json.loads(vitrail("search", "-c", "c", f"--{kind}", query, "--json").stdout)
    assert {hit["id"] for hit in found["hits"]} == {"hat/0.png", "hat/1.png"}
    assert found["coverage"]["fraction"] == 0.5
    assert found["index"]["exact"]


@pytest.mark.parametrize(("query", "pictures"), [("image", 3), ("like", 3), ("vector", 2)])
def test_gallery(vitrail: Shell, folder: Path, tmp_path: Path, query: str, pictures: int) -> None:
    """The query and the files behind the hits stand in the gallery; a vector has no picture."""
    vitrail("index", folder, "-c", "c")
    np.save(tmp_path / "v.npy", np.ones(4))
    given = {"image": folder / "hat/0.png", "like": "hat/0.png", "vector": tmp_path / "v.npy"}[query]
    result = vitrail("search", "-c", "c", f"--{query}", given, "--gallery", tmp_path / "out.html")
    assert f"gallery: {tmp_path / 'out.html'}" in result.stdout
    assert (tmp_path / "out.html").read_text().count("<img") == pictures


def test_stats(vitrail: Shell, folder: Path) -> None:
    """One table a collection, one line a shard, the unreachable ones too; --json gives every figure."""
    assert "no collections" in vitrail("stats").stdout
    vitrail("index", folder, "-c", "c")
    for words in (["stats"], ["stats", "c"]):
        printed = vitrail(*words).stdout
        assert "c: 2 records of 4 dimensions, seq 2" in printed
        assert "127.0.0.1:9091" in printed
        assert "unreachable" in printed
        assert "dead rows" in printed
        row = next(line for line in printed.splitlines() if "few records" in line)
        assert [cell.strip() for cell in row.strip("│").split("│")] == [
            "0", "Flat", "8", "×10", "0.969", "200 (150 of callers)", "5 MiB", "3.0 GiB", "few records",
        ]  # fmt: skip
    first = json.loads(vitrail("stats", "c", "--json").stdout)["partitions"][0]
    assert (first["index"]["dead_rows"], first["index"]["curve"][0]["recall"]) == (77, 0.75)
    assert json.loads(vitrail("stats", "c", "--json").stdout)["partitions"][0]["tail"] == 3
    assert len(json.loads(vitrail("stats", "--json").stdout)) == 1


def test_export_and_import(vitrail: Shell, fake: Fake, folder: Path, tmp_path: Path) -> None:
    """A collection becomes a file, and the file a collection; --json gives the figures."""
    vitrail("index", folder, "-c", "c")
    file = tmp_path / "c.parquet"
    assert "exported 2 records, " in vitrail("export", "c", file).stdout
    assert json.loads(vitrail("export", "c", file, "--json").stdout)["records"] == 2
    result = vitrail("import", file, "--collection", "d")
    assert (result.exit_code, result.stdout.startswith("imported 2 into 'd', failed 0")) == (0, True)
    assert json.loads(vitrail("import", file, "--json").stdout)["collection"] == "c"
    assert fake.records["d"].keys() == fake.records["c"].keys()


def test_import_lists_what_was_refused(vitrail: Shell, tmp_path: Path) -> None:
    """Row, id and reason of each, and exit code 1."""
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0] * 4, [1.0]]}), tmp_path / "others.parquet")
    vitrail("collections", "create", "c", "--dimension", 4)
    result = vitrail("import", tmp_path / "others.parquet", "-c", "c")
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if "dimensions" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["1", "b", "vector: is no vector of 4 dimensions"]
    assert "imported 1 into 'c', failed 1" in result.stdout
    report = json.loads(vitrail("import", tmp_path / "others.parquet", "-c", "c", "--json").stdout)
    assert report["errors"][0] | {"message": ""} == {
        "index": 1, "id": "b", "code": 3, "field": "vector", "message": "",
    }  # fmt: skip


@pytest.mark.parametrize("words", [["export", "c", "c.parquet"], ["import", __file__]])
def test_a_missing_extra_is_named(vitrail: Shell, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """In one line, with the command that installs it."""
    for module in [name for name in sys.modules if name.startswith("vitrail.client.parquet")]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    result = vitrail(*words)
    assert result.exit_code == 1
    assert result.stderr == "error: this needs more packages (pyarrow is missing): pip install 'vitrail[parquet]'\n"


def test_purge_goes_on_until_nothing_is_left(vitrail: Shell, fake: Fake) -> None:
    """It asks again for the same place in the log, says what is left on the way, and at the end that nothing is."""
    vitrail("collections", "create", "c", "--dimension", 2)
    result = vitrail("purge", "c")
    assert result.exit_code == 0
    assert [request.seq for request in fake.requests["PurgeCollectionRequest"]] == [0, 7, 7]
    assert "left: 127.0.0.1:7001 (is to compact)" in result.stderr
    assert "nothing is left of what was deleted or replaced in c up to 7" in result.stdout
    assert "not looked into: backups" in result.stdout


def test_purge_tells_what_is_left(vitrail: Shell, fake: Fake) -> None:
    """When the time is over it ends with an error, and the report says where something may be."""
    vitrail("collections", "create", "c", "--dimension", 2)
    fake.calls_to_purge = 100
    result = vitrail("purge", "c", "--timeout", 0, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["seq"], report["done"]) == (7, False)
    assert report["remains"] == [{"where": "127.0.0.1:7001", "why": "is to compact"}]
    table = vitrail("purge", "c", "--timeout", 0).stdout
    assert "127.0.0.1:7001" in table
    assert "is to compact" in table


def test_collections(vitrail: Shell, fake: Fake) -> None:
    """They are created, listed and deleted, and deleting asks first."""
    assert vitrail("collections", "create", "v", "--dimension", 8, "--metric", "euclidean").exit_code == 0
    assert "euclidean" in vitrail("collections").stdout
    attributes = ["--attribute", "price:float", "--attribute", "tags:strings"]
    made = json.loads(vitrail("collections", "create", "a", *attributes, "--json").stdout)
    assert made[0]["attributes"] == {"price": "float", "tags": "strings"}
    assert vitrail("collections", "delete", "a", "--yes").exit_code == 0
    assert json.loads(vitrail("collections", "--json").stdout)[0]["dimension"] == 8
    assert vitrail("collections", "delete", "v", stdin="n\n").exit_code == 1
    assert "v" in fake.collections
    assert vitrail("collections", "delete", "v", "--yes").exit_code == 0
    assert "v" not in fake.collections


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stats", "none"], "error: no collection 'none'"),
        (["search", "-c", "none", "--like", "a"], "error: no collection 'none'"),
        (["search", "-c", "c", "--like", "a", "-k", "0"], "error: top_k: 0 is not 1 to 1,000"),
        (["search", "-c", "c", "--vector", __file__], f"error: {__file__} is not a .npy file of numbers"),
        (["export", "none", "/tmp/none.parquet"], "error: no collection 'none'"),
        (["export", "c", "/no/such/c.parquet"], "error: [Errno 2] No such file or directory"),
        (["import", __file__, "-c", "c"], f"error: path: {__file__} cannot be read as Parquet"),
        (["collections", "create", "c"], "error: 'c' is there"),
        (["stats", "--address", "127.0.0.1:1"], "error: 127.0.0.1:1 does not answer"),
    ],
)
def test_errors_are_one_line(vitrail: Shell, words: list[str], message: str) -> None:
    """What goes wrong is one line on standard error and exit code 1, never a traceback."""
    vitrail("collections", "create", "c")
    result = vitrail(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["search", "-c", "c"],
        ["search", "-c", "c", "--like", "a", "--image", __file__],
        ["search", "-c", "c", "--image", "/no/such"],
        ["index", "/no/such", "-c", "c"],
        ["index", "/tmp"],
        ["index", "memory://nowhere", "-c", "c"],
        ["export", "c"],
        ["export", "c", "/tmp"],
        ["import", "/no/such"],
        ["collections", "create", "c", "--metric", "manhattan"],
        ["collections", "create", "c", "--attribute", "price"],
        ["collections", "create", "c", "--attribute", "price:money"],
    ],
)
def test_wrong_usage(vitrail: Shell, fake: Fake, words: list[str]) -> None:
    """A command that is typed wrong ends with exit code 2 before anything is asked."""
    assert vitrail(*words).exit_code == 2
    assert not fake.requests
