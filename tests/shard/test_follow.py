"""Following a real log, in one process: restarts, resets and the end of it."""

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.server.fakes import eventually, in_time, running, sample
from tests.shard.rows import clustered, collection
from tests.shard.test_partition import flip, the
from vitrail.rpc import protocol
from vitrail.rpc.server import Server
from vitrail.server.database import Database
from vitrail.server.journal import Journal
from vitrail.server.log import LogService
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write
from vitrail.shard import manifest, metrics
from vitrail.shard.config import Config
from vitrail.shard.follow import Follower
from vitrail.shard.life import Life
from vitrail.shard.partition import Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.service import ShardService
from vitrail.shard.snapshots import Snapshots
from vitrail.shard.wanted import wanted_build
from vitrail.v1.log_pb2 import Cursor, Row
from vitrail.v1.log_pb2_grpc import add_LogServiceServicer_to_server
from vitrail.v1.shard_pb2 import GroupResult, SearchBatchRequest, SearchGroup
from vitrail.v1.types_pb2 import Program

DIMENSION = 24
SLOTS = (0, 1024)


class Shard:
    """What a shard's process runs, without the process and without serving."""

    def __init__(self, directory: Path, channel: grpc.aio.Channel, snapshots: str = "") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.writer = ThreadPoolExecutor(1)
        self.partitions = Partitions(directory, SLOTS)
        self.snapshots = Snapshots(snapshots, directory, self.partitions, self.writer) if snapshots else None
        self.follower = Follower(self.partitions, channel, self.writer, self.snapshots)
        self.life = Life(self.partitions, self.writer, self.follower.rebuild)
        self.tasks = [asyncio.create_task(self.follower.run())]

    @property
    def partition(self) -> Partition:
        (partition,) = self.partitions
        return partition

    def ids(self) -> list[str]:
        partition = self.partition
        found = partition.search(np.ones((1, DIMENSION), np.float32), 10_000, exact=True).rows[0]
        return sorted(partition.view.table.documents.ids(found[found >= 0]))

    def live(self) -> None:
        self.tasks.append(asyncio.create_task(self.life.run()))

    def write_snapshots(self) -> None:
        assert self.snapshots is not None
        self.tasks.append(asyncio.create_task(self.snapshots.run()))

    async def stop(self, *, publish: bool = True) -> None:
        """End it as a shard ends."""
        for task in self.tasks:
            task.cancel()
        async with asyncio.timeout(10):
            for task in self.tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.snapshots is not None:
            self.snapshots.close()
        if publish:
            await self.life.publish_all()
        self.partitions.close()
        self.writer.shutdown()


class World:
    """A store with one collection, and its log served."""

    def __init__(self, journal: Journal, channel: grpc.aio.Channel, directory: Path) -> None:
        self.journal = journal
        self.channel = channel
        self.directory = directory
        self.ids: set[str] = set()
        self.seq = 0

    async def write(self, first: int, count: int) -> None:
        vectors = clustered(count, DIMENSION, seed=first)
        records = [NewRecord(f"r{first + n}", {}, vector=vector.tobytes()) for n, vector in enumerate(vectors)]
        written = await self.journal.write(Write(1, records), in_time())
        self.seq = written.seq
        self.ids |= {record.id for record in records}

    def shard(self, name: str = "shard", snapshots: str = "") -> Shard:
        return Shard(self.directory / name, self.channel, snapshots)

    async def caught_up(self, shard: Shard) -> None:
        await shard.follower.ready.wait()
        await eventually(lambda: shard.partition.cursor.seq == self.seq)

    def agrees(self, shard: Shard) -> None:
        assert shard.ids() == sorted(self.ids)
        assert shard.partition.view.records == len(self.ids)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = Store(Database(str(tmp_path / "store")))
    journal = Journal(store)
    await journal.load_catalog()
    server = Server("127.0.0.1", 0, registry=CollectorRegistry())
    server.add(add_LogServiceServicer_to_server, LogService(journal), "vitrail.v1.LogService")
    port = await server.start()
    async with running(journal.batcher), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await journal.change_catalog(store.create_collection, collection(DIMENSION, train_at=100_000))
        yield World(journal, channel, tmp_path)
        journal.news.end()
        await server.drain(10.0)
    journal.close()
    store.close()


async def test_a_restart_goes_on_from_what_was_published(world: World) -> None:
    """Only what is new is sent again, and where nothing is new the shard is ready nevertheless."""
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    await shard.stop()
    for more in (0, 40):
        if more:
            await world.write(300, more)
        before = sample("vitrail_rows_applied_total")
        shard = world.shard()
        await world.caught_up(shard)
        assert sample("vitrail_rows_applied_total") - before == more
        assert shard.partition.dead == 0
        world.agrees(shard)
        await shard.stop()


@pytest.mark.parametrize("old", ["shard", "coordinator"])
async def test_who_is_not_understood_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    """A shard follows no coordinator whose protocol one of them does not know; it goes on once another answers."""
    await world.write(0, 10)
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(protocol, "OLDEST", 2)
        side = {"shard": "vitrail.shard.follow", "coordinator": "vitrail.server.log"}
        for name, module in side.items():
            told = Program(version=f"of the {name}", protocol=1 if name == old else 2)
            patched.setattr(f"{module}.this_program", lambda told=told: told)
        shard = world.shard()
        await eventually(lambda: sample("vitrail_waiting", **{"for": "log"}) == 1)
        assert not shard.follower.ready.is_set()
        assert not list(shard.partitions)
    await world.caught_up(shard)
    assert sample("vitrail_waiting", **{"for": "log"}) == 0
    whys = [line["why"] for line in logs if line["event"] == "waiting for the log"]
    assert [f"the {old}, of version of the {old}, speaks protocol 1" in why for why in whys] == [True]
    world.agrees(shard)
    await shard.stop()


async def test_how_far_a_build_has_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each page it is known up to which row, and of how many, though nothing counts as applied yet."""
    monkeypatch.setattr("vitrail.server.log.MAX_PAGE_ROWS", 100)
    await world.write(0, 250)
    seen = []
    apply = Partition.apply

    def note(self: Partition, rows: Sequence[Row]) -> None:
        apply(self, rows)
        metrics.report(self)
        uid = str(self.collection.uid)
        gauges = (sample(f"vitrail_partition_{name}_seq", collection_uid=uid) for name in ("reached", "log", "applied"))
        seen.append(tuple(gauges))

    monkeypatch.setattr(Partition, "apply", note)
    shard = world.shard()
    await world.caught_up(shard)
    assert seen == [(100, 250, 0), (200, 250, 0), (250, 250, 0)]
    assert (shard.partition.reached, shard.partition.head) == (250, 250)
    await shard.stop()
    shard = world.shard()
    await world.caught_up(shard)
    assert shard.partition.reached == 250
    await shard.stop()


async def test_following_ends_when_it_is_told_to(world: World) -> None:
    """A cancelled follower ends at once, though its stream is cancelled too, as for following again."""
    await world.write(0, 10)
    shard = world.shard()
    await world.caught_up(shard)
    await shard.stop()
    assert all(task.done() for task in shard.tasks)


async def test_rows_that_come_after_a_reset_lead_to_no_checkpoint(world: World) -> None:
    """A stream goes on for a while after a partition was reset: its rows must not count as all of them."""
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    for round_ in range(5):
        # The reset comes without a word to the follower, which finds out by itself.
        reset = asyncio.get_running_loop().run_in_executor(shard.writer, shard.partition.reset)
        await world.write(300 + 50 * round_, 50)
        await reset
        await world.write(10_000 + 50 * round_, 50)
        await eventually(lambda: shard.partition.cursor.seq == world.seq)
        world.agrees(shard)
    await shard.stop()


async def test_a_damaged_partition_is_found_in_the_background_and_followed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flipped far from the end of the vectors: noticed after opening, counted, and everything comes back."""
    monkeypatch.setattr("vitrail.shard.files.CHUNK", 4096)
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    await shard.stop()
    flip(the(shard.directory / "1", "table-*/vectors"))
    shard = world.shard()
    await world.caught_up(shard)
    assert shard.partition.unverified is not None  # opening does not notice
    assert wanted_build(shard.partition) is None
    world.agrees(shard)
    before = sample("vitrail_partition_rebuilds_total")
    life = shard.partition.life
    shard.live()
    await eventually(lambda: shard.partition.life not in ("", life))
    await eventually(lambda: shard.partition.cursor.seq == world.seq)
    await world.write(300, 50)
    await eventually(lambda: shard.partition.cursor.seq == world.seq)
    assert sample("vitrail_partition_rebuilds_total") - before == 1
    assert shard.partition.unverified is None
    world.agrees(shard)
    await shard.stop()


async def test_a_partition_that_cannot_be_read_now_is_read_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when it is opened nor when its vectors are verified: nothing is deleted, and nothing is sent again."""
    monkeypatch.setattr("vitrail.shard.life.RETRY_SECONDS", 0.1)
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    await shard.stop()
    failing = ["read", "read", "verify", "verify"]

    def fails(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def first_fail(*given: object) -> object:
            if name in failing:
                failing.remove(name)
                raise OSError(errno.EMFILE, "Too many open files")
            return function(*given)

        return first_fail

    monkeypatch.setattr(manifest, "read", fails("read", manifest.read))
    monkeypatch.setattr(Partition, "verify", fails("verify", Partition.verify))
    before = sample("vitrail_partition_rebuilds_total"), sample("vitrail_rows_applied_total")
    shard = world.shard()
    await world.caught_up(shard)
    assert failing == ["verify", "verify"]
    shard.live()
    await eventually(lambda: shard.partition.unverified is None)
    assert not failing
    assert (sample("vitrail_partition_rebuilds_total"), sample("vitrail_rows_applied_total")) == before
    world.agrees(shard)
    await shard.stop()


async def test_a_partition_that_is_dropped_while_it_is_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are gone, which is no damage: nothing is reset, and the shard lives on."""
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    await shard.stop()
    shard = world.shard()
    await world.caught_up(shard)
    partition = shard.partition
    verify = type(partition).verify
    loop = asyncio.get_running_loop()

    def drop_and_verify(self: Partition) -> None:
        deleted = world.journal.change_catalog(world.journal.store.delete_collection, 1)
        asyncio.run_coroutine_threadsafe(deleted, loop).result()
        gone = eventually(lambda: not (shard.directory / "1").exists())
        asyncio.run_coroutine_threadsafe(gone, loop).result()
        verify(self)

    went_on = asyncio.Event()  # to its next errand
    monkeypatch.setattr(type(partition), "verify", drop_and_verify)
    monkeypatch.setattr(type(partition), "warm", lambda _: loop.call_soon_threadsafe(went_on.set))
    before = sample("vitrail_partition_rebuilds_total")
    shard.live()
    await asyncio.wait([asyncio.create_task(went_on.wait()), *shard.tasks], return_when=asyncio.FIRST_COMPLETED)
    assert not any(task.done() for task in shard.tasks)
    assert sample("vitrail_partition_rebuilds_total") == before
    assert not list(shard.partitions)
    assert not (shard.directory / "1").exists()
    await shard.stop()


async def test_a_partition_is_rebuilt_when_it_is_told_to(world: World) -> None:
    """Once: an order that was meant for the life before is none. The shard is not ready until everything is back."""
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    life = shard.partition.life
    before = sample("vitrail_partition_rebuilds_total")
    await shard.follower.rebuild(shard.partition, life, "it was told to")
    assert (shard.partition.view.records, shard.partition.held, shard.follower.ready.is_set()) == (0, None, False)
    await shard.follower.rebuild(shard.partition, life, "it was told to, by another one")
    await world.caught_up(shard)
    assert sample("vitrail_partition_rebuilds_total") - before == 1
    assert shard.partition.held is not None
    assert shard.partition.held.life == shard.partition.life != life
    world.agrees(shard)
    await shard.stop()


async def test_what_is_built_anew_is_no_answer_until_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the records would look like all of them: the coordinator is told instead, and says what is missing."""
    await world.write(0, 300)
    shard = world.shard()
    await world.caught_up(shard)
    config = Config(index=0, count=1, log="127.0.0.1:1", data=shard.directory)
    service = ShardService(config, shard.partitions, shard.follower, metrics_port=0)
    group = SearchGroup(collection_uid=1, vectors=np.ones(DIMENSION, "<f4").tobytes(), top_k=5, timeout=10)
    context: Any = None

    async def search() -> GroupResult:
        response = await service.SearchBatch(SearchBatchRequest(groups=[group]), context)
        return response.results[0]

    assert (await search()).records == 300
    go_on, checkpoint = threading.Event(), Partition.checkpoint

    def checkpoint_later(self: Partition, cursor: Cursor) -> None:
        go_on.wait(10)
        checkpoint(self, cursor)

    monkeypatch.setattr(Partition, "checkpoint", checkpoint_later)
    partition = shard.partition
    await shard.follower.rebuild(partition, partition.life, "to see")
    await eventually(lambda: partition.view.records == 300)  # all of it, but nobody has said so
    assert (await search()).error == "is being built from the log"
    go_on.set()
    await shard.follower.ready.wait()
    assert (await search()).records == 300
    await shard.stop()
