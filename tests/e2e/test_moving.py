"""Export and import with real servers, photos, processes and signals."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.photos import jpeg, photos
from tests.e2e.running import PATIENCE, Running, eventually, wait_applied
from vitrail.client import Client, EmbeddingSpaceMismatch, IndexOptions, NotFound, Record
from vitrail.rpc.attributes import AttributeValue

ROWS, DIMENSION = 10_000, 512


def seen(client: Client, name: str) -> dict[str, Any]:
    """All that there is to know of records, but when they were written."""
    found = {}
    for record in client.list(name, include=["vector", "thumbnail"]):
        assert record.vector is not None
        found[record.id] = (
            record.vector.tobytes(),
            record.attributes,
            record.uri,
            record.content_hash,
            record.thumbnail,
        )
    return found


def vitrail(address: str, *words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "vitrail.cli.main", *map(str, words), "--address", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(address: str, *words: object, code: int = 0) -> Any:
    """What a command prints as JSON."""
    process = vitrail(address, *words, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return json.loads(out)


@pytest.fixture(scope="module")
def many(cluster: Running) -> str:
    """A collection that takes a second or more to export."""
    with Client(cluster.address) as client:
        client.create_collection("many", dimension=DIMENSION)
        vectors = np.random.default_rng(3).standard_normal((ROWS, DIMENSION))
        client.upsert("many", ids=[f"r{n:05}" for n in range(ROWS)], vectors=vectors)
    return "many"


def test_photos_move_to_another_server_whole(
    client: Client, cluster: Running, start: Callable[..., Running], name: str, tmp_path: Path
) -> None:
    """Vectors bit for bit, attributes of every type, uris, hashes, thumbnails, the definition: all as before.

    So the other server finds the same, and a folder that was indexed here is skipped there.
    """
    folder = tmp_path / "photos"
    (folder / "real").mkdir(parents=True)
    for title, photo in photos().items():
        (folder / "real" / f"{title}.jpg").write_bytes(jpeg(photo))
    index = IndexOptions(nprobe=3, target_recall=0.9)
    client.create_collection(name, train_at=500, thumbnails=True, index=index, attributes={"never": "float"})
    client.index(name, folder)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    every: dict[str, AttributeValue] = {"s": "ü", "n": 2**62, "f": 0.1, "b": False, "t": moment, "l": ["a", "", "ü"]}
    client.upsert(name, [Record("real/coffee.jpg", attributes=every, uri="https://example.com/ü")])
    exported = run(cluster.address, "export", name, tmp_path / "c.parquet")
    assert exported["records"] == len(photos())

    there = start("--shards", "1")
    imported = run(there.address, "import", tmp_path / "c.parquet")
    assert (imported["collection"], imported["imported"], imported["failed"]) == (name, len(photos()), 0)
    with Client(there.address) as other:
        assert seen(other, name) == seen(client, name)
        thumbnails = [record.thumbnail for record in other.list(name, include=["thumbnail"])]
        assert all(thumbnail and thumbnail.startswith(b"\xff\xd8") for thumbnail in thumbnails)
        assert other.get(name, "real/coffee.jpg").attributes == every
        before, after = client.get_collection(name), other.get_collection(name)
        for field in (
            "dimension",
            "metric",
            "embedder",
            "space",
            "attributes",
            "train_at",
            "thumbnails",
            "index",
        ):
            assert getattr(after, field) == getattr(before, field)
        report = other.index(name, folder)
        assert (report.indexed, report.skipped) == (0, len(photos()))
        wait_applied(client, name)
        wait_applied(other, name)
        here = client.search(name, like="real/coffee.jpg", exact=True).hits
        same = other.search(name, like="real/coffee.jpg", exact=True).hits
        assert [hit.id for hit in same] == [hit.id for hit in here]
        np.testing.assert_allclose([hit.score for hit in same], [hit.score for hit in here], atol=1e-3)


def test_an_export_that_is_interrupted_leaves_nothing(cluster: Running, many: str, tmp_path: Path) -> None:
    """Ctrl-C: no file. SIGKILL: none under its name. The last backup stays as it was."""
    backup = tmp_path / "c.parquet"
    backup.write_bytes(b"the last one")
    for number in (signal.SIGINT, signal.SIGKILL):
        process = vitrail(cluster.address, "export", many, backup)
        eventually(lambda: len(list(tmp_path.iterdir())) == 2)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        left = [path.name for path in tmp_path.iterdir() if path != backup]
        assert len(left) == (number == signal.SIGKILL)
        assert all(name.endswith(".unfinished") for name in left)
        assert backup.read_bytes() == b"the last one"


def test_an_import_that_is_killed_can_be_run_again(
    client: Client, cluster: Running, many: str, name: str, tmp_path: Path
) -> None:
    """What it had written is replaced by itself, and the process that decodes ends with it."""
    run(cluster.address, "export", many, tmp_path / "c.parquet")
    process = vitrail(cluster.address, "import", tmp_path / "c.parquet", "--collection", name)

    def begun() -> bool:
        with contextlib.suppress(NotFound):
            return client.stats(name).records > 0
        return False

    eventually(begun)
    decoders = psutil.Process(process.pid).children()
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert 0 < client.stats(name).records < ROWS
    eventually(lambda: not any(decoder.is_running() for decoder in decoders))
    assert run(cluster.address, "import", tmp_path / "c.parquet", "--collection", name)["imported"] == ROWS
    assert seen(client, name) == seen(client, many)


def test_records_that_the_server_refuses_are_listed(
    client: Client, cluster: Running, name: str, tmp_path: Path
) -> None:
    """Each by its row, field and reason, beside others that are written; the exit code tells."""
    vectors = [[1.0, 0.0], [0.0, 0.0], [float("nan"), 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]]
    photo = jpeg(photos()["coffee"].resize((64, 64)))
    columns = {
        "id": ["good", "zero", "nan", "text", "hash", "x" * 600],
        "vector": vectors,
        "thumbnail": [photo, None, None, b"<html>", None, None],
        "content_hash": [bytes(32), None, None, None, b"short", None],
        "colour": ["red"] * 6,
    }
    pq.write_table(pa.table(columns), tmp_path / "others.parquet")
    client.create_collection(name, dimension=2)
    report = run(cluster.address, "import", tmp_path / "others.parquet", "-c", name, code=1)
    assert [(error["index"], error["field"]) for error in report["errors"]] == [
        (1, "vector"),
        (2, "vector"),
        (3, "thumbnail"),
        (4, "content_hash"),
        (5, "id"),
    ]
    record = client.get(name, "good")
    assert (record.attributes, record.thumbnail, record.content_hash) == ({"colour": "red"}, photo, bytes(32))
    assert client.stats(name).records == 1


def test_bad_names_of_attributes_are_refused_before_anything_is_written(
    client: Client, cluster: Running, name: str, tmp_path: Path
) -> None:
    """The server says which; the command ends with that line."""
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]], "price (€)": [1.0]}), tmp_path / "others.parquet")
    client.create_collection(name, dimension=2)
    process = vitrail(cluster.address, "import", tmp_path / "others.parquet", "-c", name)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "error: attributes.price (€): a name has letters, digits and _" in err
    assert "Traceback" not in err
    assert client.stats(name).records == 0


def test_another_embedding_space_is_refused_before_anything_is_written(
    client: Client, name: str, tmp_path: Path
) -> None:
    """Into a collection of this server's embedder, and into one that would have to be made of it."""
    client.create_collection(name)
    client.upsert(name, [Record("a", image=jpeg(photos()["coffee"]))])
    client.export(name, tmp_path / "c.parquet")
    table = pq.read_table(tmp_path / "c.parquet")
    space = client.get_collection(name).space.encode()
    metadata = {key: value.replace(space, b"another") for key, value in (table.schema.metadata or {}).items()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "other.parquet")
    seq = client.stats(name).seq
    for target in (name, f"{name}-new"):
        with pytest.raises(EmbeddingSpaceMismatch, match="another"):
            client.import_(tmp_path / "other.parquet", target)
    assert client.stats(name).seq == seq
    with pytest.raises(NotFound):
        client.get_collection(f"{name}-new")
