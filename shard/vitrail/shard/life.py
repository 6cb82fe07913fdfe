"""The life of partitions: tails are folded, indexes built and swapped in, states published. Nobody asks for it."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import structlog

from vitrail.rpc.process import trim_memory
from vitrail.shard import metrics
from vitrail.shard.building import NICENESS, BuildingFailed, build
from vitrail.shard.files import Mismatch, is_damage
from vitrail.shard.partition import BUILDING_INDEX, PUBLISHING, Outdated, Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.recall import ENOUGH
from vitrail.shard.wanted import Wanted, wanted_build

log = structlog.get_logger()
T = TypeVar("T")
Rebuild = Callable[[Partition, str, str], Awaitable[None]]
"""Has a partition built again; given its life, and why."""

TICK_SECONDS = 0.1
PUBLISH_SECONDS = 10.0
# After a build that failed, and twice as long after each further one.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0
# Measuring recall takes at most this share of a core; more while hardly any query of a caller was measured.
OBSERVING_SHARE, OBSERVING_SHARE_AT_FIRST = 0.01, 0.1


class Life:
    """Looks after all partitions of a shard; what it changes, it changes in the writer's thread."""

    def __init__(self, partitions: Partitions, writer: Executor, rebuild: Rebuild) -> None:
        self._partitions = partitions
        self._writer = writer
        self._rebuild = rebuild
        self._background = ThreadPoolExecutor(1, "background", initializer=be_nice)
        self._building: asyncio.Task[None] | None = None
        self._build_after = 0.0
        self._retry_seconds = RETRY_SECONDS
        self._published_at: dict[int, float] = {}
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Look after them until cancelled."""
        errands = asyncio.create_task(self._run_errands())
        giving_back = asyncio.create_task(self._give_back())
        try:
            while not errands.done():
                for partition in self._partitions:
                    await self._look_after(partition)
                await asyncio.sleep(TICK_SECONDS)
            errands.result()
        finally:
            tasks = [task for task in (errands, giving_back, self._building) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._background.shutdown()

    async def publish_all(self) -> None:
        """Publish what is not yet published; the last thing that a shard does."""
        for partition in self._partitions:
            if partition.wants_publishing:
                await self._publish(partition)

    async def _look_after(self, partition: Partition) -> None:
        metrics.report(partition)
        wanted = wanted_build(partition, self._partitions.bytes_a_record()) if self._may_build() else None
        if wanted is not None:
            partition.building = "training" if wanted.train else "compacting"
            self._building = asyncio.create_task(self._build(partition, wanted))
        while partition.wants_fold:  # slice by slice, so that rows of the log come in between
            await self._write(partition.fold)
        since = time.monotonic() - self._published_at.get(partition.collection.uid, 0.0)
        is_awaited = partition.wants_cleaning and partition.is_clean and PUBLISHING not in partition.troubles
        if (partition.wants_publishing and since > PUBLISH_SECONDS) or is_awaited:
            await self._publish(partition)

    async def _run_errands(self) -> None:
        """Verify what was opened, and then measure what callers' queries find; one thing at a time, slowly."""
        while True:
            start, cpu, share = time.monotonic(), 0.0, OBSERVING_SHARE
            for partition in self._partitions:
                if partition.unverified is not None:
                    await self._verify(partition)
                await self._run_behind(partition.warm)
                cpu += await self._run_behind(lambda partition=partition: _observe(partition))
                if partition.curve is not None and partition.curve.real_samples < ENOUGH:
                    share = OBSERVING_SHARE_AT_FIRST
            spent = time.monotonic() - start
            await asyncio.sleep(max(TICK_SECONDS, cpu / share - spent))

    async def _give_back(self) -> None:
        """Return memory that lies free in many small pieces: of an index left behind, or of lists that grew."""
        while True:
            await self._freed.wait()
            self._freed.clear()
            await self._run_behind(trim_memory)

    async def _verify(self, partition: Partition) -> None:
        life = partition.life
        try:
            await self._run_behind(partition.verify)
        except (Mismatch, OSError) as error:
            if not is_damage(error):
                log.error("cannot verify a partition", collection=partition.collection.name, why=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                return
            await self._rebuild(partition, life, str(error))

    def _may_build(self) -> bool:
        return (self._building is None or self._building.done()) and time.monotonic() > self._build_after

    async def _build(self, partition: Partition, wanted: Wanted) -> None:
        start, name, life = time.monotonic(), partition.collection.name, partition.life
        what, outcome, directory = partition.building, "failed", None
        log.info(what, collection=name, why=wanted.why)
        try:
            # By the writer: the view and the files must be of one moment.
            built = await build(partition, await self._write(partition.snapshot), wanted)
            directory = built.directory
            await self._write(lambda: partition.swap(built))
            outcome, self._retry_seconds = "swapped", RETRY_SECONDS
            recipe = partition.trained.recipe.factory if partition.trained else "Flat"
            log.info("built", collection=name, recipe=recipe, seconds=round(time.monotonic() - start, 1))
            await self._publish(partition)
        except (Outdated, BuildingFailed, Mismatch, OSError, ValueError) as error:
            if partition.life != life:  # it was reset, and its files deleted under the hands of the builder
                outcome = "outdated"
                log.info("threw away what was built", collection=name, why=str(error))
                return
            partition.troubles[BUILDING_INDEX] = str(error)
            self._build_after = time.monotonic() + self._retry_seconds
            log.error(f"{what} failed", collection=name, why=str(error), again_in=self._retry_seconds)
            self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        finally:
            self._freed.set()
            partition.building = ""
            metrics.BUILDS.labels(what, outcome).inc()
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)

    async def _publish(self, partition: Partition) -> None:
        self._published_at[partition.collection.uid] = time.monotonic()
        self._freed.set()
        with metrics.PUBLISH_SECONDS.time():
            try:
                await self._write(partition.publish)
            except OSError as error:  # a full disk: go on answering from what there is
                partition.troubles[PUBLISHING] = str(error)
                log.error("cannot publish", collection=partition.collection.name, why=str(error))

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def _run_behind(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._background, work)


def _observe(partition: Partition) -> float:
    """Measure one query if there is one; returns the seconds of CPU that it took."""
    start = time.thread_time()
    partition.observe()
    return time.thread_time() - start


def be_nice() -> None:
    """Give way to searches; on Linux a thread has a niceness of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
