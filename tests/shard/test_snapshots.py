"""Shards that write snapshots, and start from them: a real log, fsspec's object store in memory, and a directory."""

import asyncio
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tests.server.fakes import eventually, in_time, sample
from tests.shard.rows import clustered, collection
from tests.shard.test_follow import DIMENSION, SLOTS, Shard, World
from vitrail.server.writing import NewRecord, Write
from vitrail.shard import snapshots
from vitrail.shard.partition import Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.snapshots import Snapshots

MANIFEST = "1/0-1024/manifest.json"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TICK_SECONDS", 0.01)


@pytest.fixture(params=["memory", "directory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid4().hex}" if request.param == "memory" else str(tmp_path / "snapshots")


class Bucket:
    """What lies at a URL."""

    def __init__(self, url: str) -> None:
        self.store, self.root = fsspec.url_to_fs(url)

    def has(self, path: str = MANIFEST) -> bool:
        return bool(self.store.exists(f"{self.root}/{path}"))

    def listing(self) -> Any:
        return json.loads(self.store.cat_file(f"{self.root}/{MANIFEST}"))

    def forge(self, change: Callable[[Any], None]) -> None:
        listing = self.listing()
        change(listing)
        self.store.pipe_file(f"{self.root}/{MANIFEST}", json.dumps(listing).encode())

    def spoil(self) -> None:
        """Change a byte of each chunk."""
        for path in self.store.find(f"{self.root}/1/0-1024/chunks"):
            data = bytearray(self.store.cat_file(path))
            data[len(data) // 2] ^= 1
            self.store.pipe_file(path, bytes(data))


async def snapshot_of(world: World, url: str, records: int = 300) -> Bucket:
    """Let a shard write a snapshot of so many records."""
    await world.write(0, records)
    shard, bucket = world.shard("first", url), Bucket(url)
    await world.caught_up(shard)
    shard.live()
    shard.write_snapshots()
    await eventually(bucket.has)
    await shard.stop()
    return bucket


async def rows_applied_by(world: World, shard: Shard) -> float:
    before = sample("vitrail_rows_applied_total")
    await world.caught_up(shard)
    return sample("vitrail_rows_applied_total") - before


async def test_a_shard_that_lost_its_disk_starts_from_a_snapshot(world: World, url: str) -> None:
    """It is sent only what was written since, and ends with the same; a restart then finds its own files."""
    await snapshot_of(world, url)
    await world.write(300, 40)
    shard = world.shard("second", url)
    assert await rows_applied_by(world, shard) == 40
    world.agrees(shard)
    shard.partition.verify()
    await shard.stop()
    read = sample("vitrail_snapshots_total", what="read", outcome="done")
    shard = world.shard("second", url)
    assert await rows_applied_by(world, shard) == 0
    assert sample("vitrail_snapshots_total", what="read", outcome="done") == read
    world.agrees(shard)
    await shard.stop()


def _damage(bucket: Bucket, _: pytest.MonkeyPatch) -> None:
    bucket.spoil()


def _no_manifest(bucket: Bucket, _: pytest.MonkeyPatch) -> None:
    bucket.store.pipe_file(f"{bucket.root}/{MANIFEST}", b"not a manifest")


def _no_chunks(bucket: Bucket, _: pytest.MonkeyPatch) -> None:
    bucket.store.rm(f"{bucket.root}/1/0-1024/chunks", recursive=True)


def _other_metric(bucket: Bucket, _: pytest.MonkeyPatch) -> None:
    bucket.forge(lambda listing: listing["partition"].update(metric="euclidean"))


def _other_slots(bucket: Bucket, _: pytest.MonkeyPatch) -> None:
    bucket.forge(lambda listing: listing["partition"].update(slot_end=512))


def _unreachable(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("whatever an object store raises")

    monkeypatch.setattr(type(bucket.store), "open", fail)


def _full_disk(_: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))


@pytest.mark.parametrize(
    "fault", [_damage, _no_manifest, _no_chunks, _other_metric, _other_slots, _unreachable, _full_disk]
)
async def test_what_cannot_be_used_is_counted_and_the_log_followed(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Bucket, pytest.MonkeyPatch], None]
) -> None:
    """From its start; nothing of the snapshot is left on the disk."""
    bucket = await snapshot_of(world, url)
    fault(bucket, monkeypatch)
    await world.write(300, 40)
    failed = sample("vitrail_snapshots_total", what="read", outcome="failed")
    shard = world.shard("second", url)
    assert await rows_applied_by(world, shard) == 340
    assert sample("vitrail_snapshots_total", what="read", outcome="failed") == failed + 1
    world.agrees(shard)
    assert not list((shard.directory / "1").glob("building-*"))
    await shard.stop()


async def test_a_snapshot_that_cannot_be_opened_now_is_opened_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many files were open: what was fetched is whole, and is neither deleted nor fetched again."""
    url = f"memory://{uuid4().hex}"
    await snapshot_of(world, url)
    await world.write(300, 40)
    opened = Partitions._open
    failures = [OSError(errno.EMFILE, "too many open files")]

    def open_later(self: Partitions, *args: Any) -> Partition:
        if self.get(1) is None and (self._directory / "1/manifest.json").exists() and failures:
            raise failures.pop()
        return opened(self, *args)

    monkeypatch.setattr(Partitions, "_open", open_later)
    read = sample("vitrail_snapshots_total", what="read", outcome="done")
    shard = world.shard("second", url)
    assert await rows_applied_by(world, shard) == 40
    assert not failures
    assert sample("vitrail_snapshots_total", what="read", outcome="done") == read + 1
    world.agrees(shard)
    await shard.stop()


async def test_a_snapshot_of_another_history_is_built_anew(world: World, url: str) -> None:
    """Its place in the log carries a mark that the store does not know."""
    bucket = await snapshot_of(world, url)
    bucket.forge(lambda listing: listing["partition"].update(mark=7))
    rebuilds = sample("vitrail_partition_rebuilds_total")
    shard = world.shard("second", url)
    assert await rows_applied_by(world, shard) == 300
    assert sample("vitrail_partition_rebuilds_total") == rebuilds + 1
    world.agrees(shard)
    await shard.stop()


async def test_the_others_go_on_while_one_is_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that is there is followed; the shard is ready once the other one is there, too."""
    url = f"memory://{uuid4().hex}"
    bucket = await snapshot_of(world, url)
    other = collection(DIMENSION, uid=2)
    other.name = "other"
    await world.journal.change_catalog(world.journal.store.create_collection, other)
    records = [NewRecord(f"r{n}", {}, vector=vector.tobytes()) for n, vector in enumerate(clustered(2, DIMENSION))]
    await world.journal.write(Write(2, records[:1]), in_time())
    shard = world.shard("second")
    await shard.follower.ready.wait()
    await shard.stop()
    shutil.rmtree(shard.directory / "1")
    goes_on = threading.Event()
    read = type(bucket.store).cat_ranges

    def slow(*args: Any, **options: Any) -> Any:
        assert goes_on.wait(20)
        return read(*args, **options)

    monkeypatch.setattr(type(bucket.store), "cat_ranges", slow)
    shard = world.shard("second", url)
    before = sample("vitrail_rows_applied_total")
    await world.journal.write(Write(2, records[1:]), in_time())
    await eventually(lambda: (found := shard.partitions.get(2)) and found.view.records == 2)
    assert not shard.follower.ready.is_set()
    goes_on.set()
    await shard.follower.ready.wait()
    assert sample("vitrail_rows_applied_total") == before + 1
    restored = shard.partitions.get(1)
    assert restored is not None
    assert restored.view.records == 300
    await shard.stop()


async def test_one_of_the_replicas_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others leave what was written lately, and take over when its writer is silent."""
    url = f"memory://{uuid4().hex}"
    bucket = await snapshot_of(world, url)
    first = bucket.listing()
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()
    send = Snapshots._send

    def note(self: Snapshots, *args: Any) -> bool:
        sent = send(self, *args)
        loop.call_soon_threadsafe(looked.set)
        return sent

    monkeypatch.setattr(Snapshots, "_send", note)
    for seconds, writes in ((0.0, False), (601.0, True)):
        monkeypatch.setattr(time, "time", lambda now=time.time(), seconds=seconds: now + seconds)  # noqa: B008
        shard = world.shard("second", url)
        await world.caught_up(shard)
        shard.live()
        looked.clear()
        shard.write_snapshots()
        await looked.wait()
        assert (bucket.listing() != first) == writes
        await shard.stop()
    assert bucket.listing()["writer"] != first["writer"]
    assert bucket.listing()["chunks"] == first["chunks"]  # it started from there


async def test_the_same_shard_writes_on_after_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not wait until its own snapshot is old; and goes on writing at its interval."""
    url = f"memory://{uuid4().hex}"
    bucket = await snapshot_of(world, url)
    seq = bucket.listing()["partition"]["seq"]
    shard = world.shard("first", url)
    await world.caught_up(shard)
    await world.write(300, 40)
    await world.caught_up(shard)
    shard.live()
    await eventually(lambda: shard.partition.unverified is None and not shard.partition.wants_publishing)
    shard.write_snapshots()
    await eventually(lambda: bucket.listing()["partition"]["seq"] == seq + 40)
    written = bucket.listing()["written_at"]
    monkeypatch.setattr(snapshots, "WRITE_SECONDS", 0.05)
    await eventually(lambda: bucket.listing()["written_at"] > written)
    await shard.stop()


async def test_a_snapshot_that_cannot_be_written_stops_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the object store raises is counted, and the shard lives on."""
    url = f"memory://{uuid4().hex}"
    monkeypatch.setattr(type(Bucket(url).store), "pipe_file", lambda *_, **__: 1 / 0)
    failed = sample("vitrail_snapshots_total", what="written", outcome="failed")
    await world.write(0, 300)
    shard = world.shard("first", url)
    await world.caught_up(shard)
    shard.live()
    shard.write_snapshots()
    await eventually(lambda: sample("vitrail_snapshots_total", what="written", outcome="failed") > failed)
    await world.write(300, 40)
    await world.caught_up(shard)
    assert not any(task.done() for task in shard.tasks)
    await shard.stop()


async def test_snapshots_that_nobody_writes_any_more_are_deleted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a day, where they share slots with this shard's; what is not a snapshot is not touched."""
    monkeypatch.setattr(snapshots, "TIDY_SECONDS", 0.01)
    root = tmp_path / "snapshots"
    kept = ["1/0-1024", "2/0-512", "3/1024-2048", "x/0-512", "3/0-x"]
    for place in [*kept, "3/512-1024", "4/0-1024"]:
        (root / place).mkdir(parents=True)
        (root / place / "manifest.json").write_text("{}")
        if place not in ("1/0-1024", "2/0-512"):
            os.utime(root / place / "manifest.json", (0, time.time() - 86_460))
    (root / "3/512-1024/chunks").mkdir()
    (root / "3/512-1024/chunks/x").write_text("x")
    shard = world.shard("first", str(root))
    shard.write_snapshots()
    await eventually(lambda: not (root / "4/0-1024").exists() and not (root / "3/512-1024").exists())
    assert sorted(str(path.parent.relative_to(root)) for path in root.glob("*/*/manifest.json")) == sorted(kept)
    await shard.stop()


def test_a_url_that_fsspec_cannot_open_is_refused_at_once(tmp_path: Path) -> None:
    """In one line that says what is missing."""
    with ThreadPoolExecutor(1) as writer:
        for url, why in (("nowhere://x", "Protocol not known: nowhere"), ("dropbox://x", "dropbox")):
            with pytest.raises(ValueError, match=f"snapshots: .*{why}"):
                Snapshots(url, tmp_path, Partitions(tmp_path, SLOTS), writer)
