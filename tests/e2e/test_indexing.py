"""A folder and a bucket that several processes of `vitrail index` share, one of which is killed."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.e2e.photos import jpeg, tiles
from tests.e2e.running import PATIENCE, Running, eventually
from vitrail.client import Client
from vitrail.client.parts import Part

FILES = 600
PARTS = 3


class Index(NamedTuple):
    """`vitrail index` as a user runs it."""

    process: subprocess.Popen[str]

    def report(self) -> Any:
        """Wait for its end."""
        out, errors = self.process.communicate(timeout=2 * PATIENCE)
        assert self.process.returncode == 0, errors
        return json.loads(out)


def index(address: str, place: object, name: str, part: int, of: int) -> Index:
    command = [sys.executable, "-m", "vitrail.cli.main", "index", str(place), "-c", name, "--part", f"{part}/{of}"]
    command += ["--address", address, "--json"]
    return Index(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def files(count: int) -> Iterator[tuple[str, bytes]]:
    """Squares of photos, by the path that each is to have."""
    return ((f"{name} é.jpg", jpeg(tile)) for name, tile in islice(tiles(64), count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in files(FILES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


def held(client: Client, name: str) -> dict[str, int]:
    """The `seq` of each record by its id; what is written twice has another one."""
    return {record.id: record.seq for record in client.list(name)}


def test_a_part_that_is_killed_and_run_again(client: Client, name: str, cluster: Running, folder: Path) -> None:
    """Everything is there once; what the killed one had written is skipped, and later what changed is sent alone."""
    client.create_collection(name)
    ids = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    second = {id for id in ids if Part(2, PARTS).has(id)}
    first, killed, third = (index(cluster.address, folder, name, part, PARTS) for part in range(1, PARTS + 1))
    eventually(lambda: bool(second & held(client, name).keys()))
    killed.process.kill()
    killed.process.communicate()
    others = [first.report(), third.report()]
    assert sum(report["indexed"] for report in others) == len(ids - second)
    before = {id: seq for id, seq in held(client, name).items() if id in second}
    assert 0 < len(before) < len(second), "it was not killed in its middle"

    resumed = index(cluster.address, folder, name, 2, PARTS).report()
    assert (resumed["skipped"], resumed["indexed"]) == (len(before), len(second) - len(before))
    after = held(client, name)
    assert after.keys() == ids
    assert {id: after[id] for id in before} == before
    assert client.stats(name).records == len(ids) == FILES

    changed = max(second)
    (folder / changed).write_bytes((folder / min(second)).read_bytes())
    again = [index(cluster.address, folder, name, part, PARTS).report() for part in range(1, PARTS + 1)]
    assert [report["indexed"] for report in again] == [0, 1, 0]
    assert sum(report["skipped"] for report in again) == FILES - 1
    assert client.get(name, changed).content_hash == sha256((folder / min(second)).read_bytes()).digest()


def test_a_bucket_in_parts(client: Client, name: str, cluster: Running, s3: str) -> None:
    """Two processes read an object store that speaks S3; run again, they skip what they wrote."""
    wanted = dict(files(80))
    for path, data in wanted.items():
        place = f"{os.environ['AWS_ENDPOINT_URL']}/bucket/photos/{quote(path)}"
        put = urllib.request.Request(place, data, {"Content-Type": "image/jpeg"}, method="PUT")
        urllib.request.urlopen(put, timeout=PATIENCE).close()
    runs = [index(cluster.address, f"{s3}/photos", name, part, 2) for part in (1, 2)]
    reports = [run.report() for run in runs]
    assert sum(report["indexed"] for report in reports) == len(wanted)
    assert all(report["indexed"] and not report["failed"] for report in reports)
    found = {record.id: (record.content_hash, record.uri) for record in client.list(name)}
    assert found == {id: (sha256(data).digest(), f"{s3}/photos/{id}") for id, data in wanted.items()}
    again = index(cluster.address, f"{s3}/photos", name, 2, 2).report()
    assert (again["indexed"], again["skipped"]) == (0, reports[1]["indexed"])
