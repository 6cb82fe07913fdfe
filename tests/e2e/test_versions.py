"""A collection that moves into another embedding space while it is written and searched, with real processes."""

import json
import random
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import Running, eventually, wait_applied
from tests.shard.rows import clustered
from vitrail.cli.main import app
from vitrail.client import Client, FailedPrecondition, InvalidArgument, Record, StoredRecord, VitrailError

Start = Callable[..., Running]
OLD, NEW = 8, 12
"""The dimensions of two models."""


def embedded(record_id: str, content: int, dimension: int) -> NDArray[np.float32]:
    """What a model makes of a record's content."""
    seed = zlib.crc32(f"{record_id} {content} {dimension}".encode())
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)


class Writing:
    """A caller that writes all the while with the model of the version that serves, and knows what it was told."""

    def __init__(self, address: str) -> None:
        self.truth: dict[str, tuple[int, int]] = {}
        """Of each record the number of its content, and another attribute."""
        self.writes = 0
        self.faults: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()

    def go_on(self, writes: int) -> None:
        before = self.writes
        eventually(lambda: self.writes > before + writes)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self, address: str) -> None:
        chance = random.Random(7)
        with Client(address) as client:
            while not self._ended.is_set():
                time.sleep(chance.random() * 0.1)
                try:
                    self._write(client, chance)
                except VitrailError as error:
                    self.faults.append(repr(error))

    def _write(self, client: Client, chance: random.Random) -> None:
        self.writes += 1
        number, record_id = self.writes, f"r{chance.randrange(40)}"
        kind = chance.choice(["put", "put", "attributes", "delete"])
        if kind == "put":
            while not self._is_put(client, record_id, number):
                continue  # it was flipped between the look and the write
            self.truth[record_id] = (number, 0)
        elif kind == "delete":
            client.delete("c", [record_id])
            self.truth.pop(record_id, None)
        elif record_id in self.truth:
            content, _ = self.truth[record_id]
            result = client.upsert("c", [Record(record_id, attributes={"content": content, "n": number})])
            assert not result.errors
            self.truth[record_id] = (content, number)

    def _is_put(self, client: Client, record_id: str, number: int) -> bool:
        vector = embedded(record_id, number, client.get_collection("c").dimension)
        result = client.upsert("c", [Record(record_id, vector=vector, attributes={"content": number, "n": 0})])
        assert [error.code for error in result.errors] in ([], [InvalidArgument.code])
        return not result.errors


def fill(client: Client, name: str, dimension: int) -> None:
    """What a user's own model does."""
    client.upsert(
        name,
        [
            Record(each.id, vector=embedded(each.id, content_of(each), dimension), fills=each.seq)
            for each in client.list(name, pending=True)
        ],
    )


def content_of(record: StoredRecord) -> int:
    content = record.attributes["content"]
    assert isinstance(content, int)
    return content


def flip(client: Client, version: int, dimension: int) -> None:
    def is_flipped() -> bool:
        fill(client, f"c@{version}", dimension)
        try:
            return client.activate_version("c", version).serves
        except FailedPrecondition:  # more was written since
            return False

    eventually(is_flipped)


def held(client: Client, name: str, dimension: int) -> dict[str, tuple[int, int]]:
    """What a version holds by id, each with the vector of its content; found by searching, too, or it is not held."""
    wait_applied(client, name)
    found = list(client.list(name, include=["vector"]))
    assert len({each.id for each in found}) == len(found)
    for each in found:
        vector = embedded(each.id, content_of(each), dimension)
        assert each.vector is not None
        assert np.allclose(each.vector, vector)
        hits = client.search(name, vector=vector, top_k=1).hits
        assert [(hit.id, hit.attributes) for hit in hits] == [(each.id, each.attributes)]
    everything = client.search(name, vector=np.ones(dimension), top_k=1000)
    assert sorted(hit.id for hit in everything.hits) == sorted(each.id for each in found)
    return {each.id: (content_of(each), int(str(each.attributes["n"]))) for each in found}


def test_nothing_is_lost_however_it_is_flipped(start: Start) -> None:
    """Written to all the while: made, filled, flipped, flipped back and flipped again, both versions hold the truth."""
    running = start("--shards", "2")
    with Client(running.address) as client:
        client.create_collection("c", dimension=OLD, train_at=10_000)
        writing = Writing(running.address)
        writing.go_on(30)
        made = client.create_version("c", dimension=NEW)
        assert (made.version, made.serves, made.dimension) == (2, False, NEW)
        with pytest.raises(FailedPrecondition, match="pending"):
            client.activate_version("c", 2)
        for version, dimension in ((2, NEW), (1, OLD), (2, NEW)):
            flip(client, version, dimension)
            assert client.get_collection("c").version == version
            writing.go_on(15)
        writing.stop()
        assert not writing.faults
        fill(client, "c@1", OLD)
        assert [each.pending for each in client.versions("c")] == [0, 0]
        truth = writing.truth
        assert len(truth) > 10
        assert held(client, "c", NEW) == held(client, "c@2", NEW) == held(client, "c@1", OLD) == truth
        client.delete_version("c", 1)
        assert held(client, "c", NEW) == truth
        assert [each.collection.version for each in client.versions("c")] == [2]


def test_what_serves_is_trained(start: Start) -> None:
    """A version that is large enough for an index has one when the first search comes to it."""
    running = start("--shards", "2")
    ids = [f"r{number}" for number in range(1500)]
    with Client(running.address) as client:
        client.create_collection("c", dimension=OLD, train_at=100)
        client.upsert("c", ids=ids, vectors=clustered(len(ids), OLD))
        client.create_version("c", dimension=NEW)
        waiting = list(client.list("c@2", pending=True))
        vectors = clustered(len(ids), NEW)
        client.upsert(
            "c@2", [Record(each.id, vector=v, fills=each.seq) for each, v in zip(waiting, vectors, strict=True)]
        )
        client.activate_version("c", 2, timeout=60)
        result = client.search("c", vector=vectors[0], top_k=1)
        assert (result.index.trained, result.coverage.records_searched) == (True, len(ids))


class Looking:
    """A caller that searches with photos all the while, and keeps what went wrong."""

    def __init__(self, address: str, photos: dict[str, bytes]) -> None:
        self.faults: list[str] = []
        self.total = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, photos))
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self, address: str, photos: dict[str, bytes]) -> None:
        with Client(address, retries=0) as client:
            while not self._ended.is_set():
                self.total += 1
                name = sorted(photos)[self.total % len(photos)]
                try:
                    result = client.search("c", image=photos[name], top_k=1)
                    if result.hits[0].id != name or result.coverage.fraction < 1:
                        self.faults.append(f"{name}: {result}")
                except VitrailError as error:
                    self.faults.append(f"{name}: {error!r}")


def test_filled_from_images(start: Start, tmp_path: Path) -> None:
    """From those that are kept, and from the folder that was indexed, by the command; searches see no more of it
    than other scores.
    """
    photos = {f"{number:02}.jpg": jpeg(tile) for number, (_, tile) in zip(range(24), tiles(), strict=False)}
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    running = start("--shards", "2")
    command = ["reembed", "c", "--metric", "euclidean", "--activate", "--address", running.address, "--json"]
    with Client(running.address) as client:
        client.create_collection("c", keep_images=True)
        assert not client.index("c", folder).failed
        client.upsert("c", [Record("../01.jpg", image=photos["01.jpg"])])
        client.delete("c", ["../01.jpg"])
        assert client.get("c", "03.jpg", include=["image"]).image == photos["03.jpg"]
        assert client.get("c", "03.jpg").image is None
        wait_applied(client, "c")
        # But for the photo that two records have at times.
        looking = Looking(running.address, {name: data for name, data in photos.items() if name != "01.jpg"})
        made = CliRunner().invoke(app, command)
        assert (made.exit_code, json.loads(made.stdout)) == (0, {"collection": "c@2", "filled": 24, "errors": []})
        assert client.get_collection("c").metric == "euclidean"
        assert client.search("c", image=photos["05.jpg"], top_k=1).hits[0].score == pytest.approx(0, abs=1e-2)
        # An image is embedded for both, so that nothing is pending.
        client.upsert("c", [Record("00.jpg", image=photos["00.jpg"], attributes={"new": True})])
        assert [each.pending for each in client.versions("c")] == [0, 0]
        client.activate_version("c", 1)
        assert client.search("c", image=photos["00.jpg"], top_k=1).hits[0].attributes == {"new": True}
        # What cannot be filled is told, and is not served.
        client.update_collection("c", keep_images=False)
        assert client.get("c", "03.jpg", include=["image"]).image is None
        client.upsert("c", [Record("../01.jpg", image=photos["01.jpg"])])
        (folder / "04.jpg").write_bytes(photos["05.jpg"])  # another image than the record's
        refused = CliRunner().invoke(app, [*command, "--images", str(folder)])
        assert refused.exit_code == 1
        assert "2 vectors of version 3 are pending" in refused.stderr
        report = client.fill("c@3", folder)
        assert {error.id: error.field for error in report.errors} == {"../01.jpg": "image", "04.jpg": "fills"}
        assert {error.field for error in client.fill("c@3").errors} == {"image"}
        client.delete("c", ["../01.jpg"])
        (folder / "04.jpg").write_bytes(photos["04.jpg"])
        resumed = CliRunner().invoke(app, [*command, "--images", str(folder), "--version", "3"])
        assert json.loads(resumed.stdout)["filled"] == 1
        looking.stop()
    assert looking.total > 10
    assert not looking.faults


def test_what_is_not_for_versions(client: Client, name: str) -> None:
    """Each with its status and field."""
    client.create_collection(name, dimension=2)
    client.upsert(name, ids=["a"], vectors=[[1.0, 2.0]])
    with pytest.raises(InvalidArgument) as caught:
        client.create_collection(f"{name}@2", dimension=2)
    assert caught.value.field == "name"
    client.create_version(name, dimension=3)
    second = f"{name}@2"
    for record, code, field in (
        (Record("a", vector=[1, 2, 3]), FailedPrecondition.code, "fills"),
        (Record("a", vector=[1, 2, 3], fills=99), FailedPrecondition.code, "fills"),
        (Record("a", vector=[1, 2], fills=2), InvalidArgument.code, "vector"),
        (Record("a", fills=2), InvalidArgument.code, "fills"),
        (Record("a", vector=[1, 2, 3], fills=-1), InvalidArgument.code, "fills"),
    ):
        (error,) = client.upsert(second, [record]).errors
        assert (error.code, error.field) == (code, field)
    with pytest.raises(FailedPrecondition) as pending:
        client.search(second, like="a")
    assert pending.value.field == "query.record_id"
    with pytest.raises(FailedPrecondition, match="serves"):
        client.delete_version(name, 1)
    with pytest.raises(InvalidArgument):
        client.delete_collection(second)
    (waiting,) = client.list(second, pending=True)
    assert (waiting.pending, waiting.vector, client.stats(second).pending) == (True, None, 1)
    assert client.get(name, "a").pending is False
    assert not client.search(second, vector=[1, 2, 3]).hits
    assert not client.upsert(second, [Record("a", vector=[1, 2, 3], fills=waiting.seq)]).errors
    assert client.activate_version(name, 2).dimension == 3
    client.delete_collection(name)
