"""Following the record log.

The log sends the catalog, then for each collection rows and checkpoints, for ever. What has been applied counts up
to the last checkpoint only: rows move forward in the log when they are written again, so the rows before it prove
nothing. On any failure the stream is opened again from the checkpoints, and rows that come twice change nothing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import grpc
import structlog

from vitrail.rpc.errors import FailedPrecondition
from vitrail.rpc.protocol import check, this_program
from vitrail.rpc.waiting import Waiting
from vitrail.shard import metrics
from vitrail.shard.partition import APPLYING, Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.snapshots import Snapshots
from vitrail.v1.log_pb2 import Cursor, FollowRequest, FollowResponse, Rows
from vitrail.v1.log_pb2_grpc import LogServiceStub

log = structlog.get_logger()
T = TypeVar("T")

FIRST_DELAY = 0.1
LONGEST_DELAY = 2.0


class FollowAgain(Exception):
    """A partition is not the one, or not where it was, when this stream was opened."""


class Follower:
    """Keeps the partitions up to date. `ready` latches until one is rebuilt: a shard answers while the log is away."""

    def __init__(
        self,
        partitions: Partitions,
        channel: grpc.aio.Channel,
        writer: Executor,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._partitions = partitions
        self._stub = LogServiceStub(channel)
        self._writer = writer
        self._snapshots = snapshots
        self._starting: dict[int, asyncio.Task[None]] = {}
        """By collection, looking for snapshots to start from: nothing is followed until that is known."""
        self._behind: set[int] | None = None
        self._lives: dict[int, str] = {}
        """Of each partition when the stream was opened: one that was reset since must be sent everything again."""
        self._waiting = Waiting("log")
        self._stream: grpc.aio.UnaryStreamCall[FollowRequest, FollowResponse] | None = None

    async def rebuild(self, partition: Partition, life: str, why: str) -> None:
        """Delete what a partition holds, unless that is of another life by now, and follow the log again."""
        if await self._write(lambda: partition.life == life and partition.reset()):
            log.error("deleted a partition that is not as it should be", collection=partition.collection.name, why=why)
            self._was_reset(partition)
            self._again()

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            await self._run()
        finally:
            for task in self._starting.values():
                task.cancel()

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                self._stream = self._stub.Follow(self._request())
                async for event in self._stream:
                    if event.HasField("catalog"):
                        check(event.catalog.program, "the coordinator")
                    delay = FIRST_DELAY
                    metrics.LOG_CONNECTED.set(1)
                    self._waiting.over()
                    await self._take(event)
            except FollowAgain:
                log.info("following again from where partitions are")
            except FailedPrecondition as error:
                self._waiting.because(error.message)
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():  # which cancels the stream as well
                    raise
            except grpc.aio.AioRpcError as error:
                self._waiting.because(error.details() or error.code().name)
            except OSError as error:  # a full disk: stay at the last checkpoint and try again
                log.error("cannot apply rows of the log", why=str(error), again_in=delay)
            self._again()  # not two streams at once
            metrics.LOG_CONNECTED.set(0)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def is_building(self, partition: Partition) -> bool:
        """Whether it holds only some of its records, since it was sent some of them alone."""
        return not partition.cursor.seq and partition.collection.uid in (self._behind or ())

    def _again(self) -> None:
        """Open the stream anew."""
        if self._stream is not None:
            self._stream.cancel()

    def _was_reset(self, partition: Partition) -> None:
        metrics.REBUILDS.inc()
        if self._behind is not None:
            self._behind.add(partition.collection.uid)
        self.ready.clear()
        metrics.READY.set(0)

    def _request(self) -> FollowRequest:
        begin, end = self._partitions.slots
        self._lives = {partition.collection.uid: partition.life for partition in self._partitions}
        return FollowRequest(
            slot_begin=begin,
            slot_end=end,
            cursors=self._partitions.cursors(),
            without=list(self._starting),
            program=this_program(),
        )

    def _look_for_snapshots(self) -> None:
        """Have partitions without content start from their snapshots."""
        if self._snapshots is None:
            return
        for partition in self._partitions:
            if not partition.cursor.seq:
                task = asyncio.create_task(self._start(self._snapshots, partition))
                self._starting[partition.collection.uid] = task

    async def _start(self, snapshots: Snapshots, partition: Partition) -> None:
        """Follow a partition from where its snapshot ends, or else from the start."""
        try:
            await snapshots.restore(partition)
        finally:
            del self._starting[partition.collection.uid]
            self._again()

    async def _take(self, event: FollowResponse) -> None:
        match event.WhichOneof("event"):
            case "catalog":
                await self._write(partial(self._partitions.take_catalog, event.catalog))
                if self._behind is None:
                    self._behind = {collection.uid for collection in event.catalog.collections}
                    self._look_for_snapshots()
                    if self._starting:
                        raise FollowAgain
                if any(found.cursor.seq and found.collection.uid not in self._lives for found in self._partitions):
                    raise FollowAgain  # it was opened just now: what it holds need not be sent again
            case "rows":
                if partition := self._partitions.get(event.rows.collection_uid):
                    await self._write(partial(self._apply, partition, event.rows))
            case "checkpoint":
                uid = event.checkpoint.collection_uid
                if partition := self._partitions.get(uid):
                    await self._write(partial(self._checkpoint, partition, event.checkpoint))
                if self._behind is not None:
                    self._behind.discard(uid)
            case "reset":
                if partition := self._partitions.get(event.reset.collection_uid):
                    log.warning("the store does not know our place in its log", collection=partition.collection.name)
                    await self._write(partition.reset)
                    self._lives[partition.collection.uid] = partition.life
                    self._was_reset(partition)
        caught_up = self._behind is not None and not self._behind & {p.collection.uid for p in self._partitions}
        if caught_up and not self.ready.is_set():
            self.ready.set()
            metrics.READY.set(1)

    # In the writer's thread, in which partitions are reset too.

    def _apply(self, partition: Partition, rows: Rows) -> None:
        self._check(partition)
        partition.head = rows.head
        try:
            partition.apply(rows.rows)
        except OSError as error:
            partition.troubles[APPLYING] = str(error)
            raise
        metrics.ROWS_APPLIED.inc(len(rows.rows))

    def _checkpoint(self, partition: Partition, cursor: Cursor) -> None:
        self._check(partition)
        partition.checkpoint(cursor)

    def _check(self, partition: Partition) -> None:
        if self._lives.setdefault(partition.collection.uid, partition.life) != partition.life:
            raise FollowAgain

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)
