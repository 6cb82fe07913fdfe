"""The life of partitions: tails are folded, indexes trained and swapped in, states published. Nobody asks for it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from vitrail.shard import metrics
from vitrail.shard.partition import Outdated, Partition
from vitrail.shard.partitions import Partitions
from vitrail.shard.training import TrainingFailed, train

log = structlog.get_logger()

TICK_SECONDS = 0.1
PUBLISH_SECONDS = 10.0
RETRY_TRAINING_SECONDS = 60.0


class Life:
    """Looks after all partitions of a shard; what it changes, it changes in the writer's thread."""

    def __init__(self, partitions: Partitions, writer: Executor) -> None:
        self._partitions = partitions
        self._writer = writer
        self._training: asyncio.Task[None] | None = None
        self._published_at: dict[int, float] = {}
        self._training_failed_at = -RETRY_TRAINING_SECONDS

    async def run(self) -> None:
        """Look after them until cancelled."""
        try:
            while True:
                for partition in self._partitions:
                    await self._look_after(partition)
                await asyncio.sleep(TICK_SECONDS)
        finally:
            if self._training is not None:
                self._training.cancel()
                await asyncio.gather(self._training, return_exceptions=True)

    async def publish_all(self) -> None:
        """Publish what is not yet published; the last thing that a shard does."""
        for partition in self._partitions:
            if partition.wants_publishing:
                await self._publish(partition)

    async def _look_after(self, partition: Partition) -> None:
        _report(partition)
        if partition.wants_training and self._may_train():
            partition.training = True
            self._training = asyncio.create_task(self._train(partition))
        while partition.wants_fold:  # slice by slice, so that rows of the log come in between
            await self._write(partition.fold)
        since = time.monotonic() - self._published_at.get(partition.collection.uid, 0.0)
        if partition.wants_publishing and since > PUBLISH_SECONDS:
            await self._publish(partition)

    def _may_train(self) -> bool:
        idle = self._training is None or self._training.done()
        return idle and time.monotonic() - self._training_failed_at > RETRY_TRAINING_SECONDS

    async def _train(self, partition: Partition) -> None:
        start = time.monotonic()
        try:
            file = await train(partition)
            await self._write(lambda: partition.swap(file))
            await self._publish(partition)
        except Outdated as error:
            metrics.TRAININGS.labels("outdated").inc()
            log.info("threw a trained index away", collection=partition.collection.name, why=str(error))
        except (TrainingFailed, OSError) as error:
            self._training_failed_at = time.monotonic()
            metrics.TRAININGS.labels("failed").inc()
            log.error("training failed", collection=partition.collection.name, why=str(error))
        else:
            metrics.TRAININGS.labels("swapped").inc()
            took = round(time.monotonic() - start, 1)
            log.info("trained", collection=partition.collection.name, recipe=file.recipe.factory, seconds=took)
        finally:
            partition.training = False

    async def _publish(self, partition: Partition) -> None:
        self._published_at[partition.collection.uid] = time.monotonic()
        with metrics.PUBLISH_SECONDS.time():
            try:
                await self._write(partition.publish)
            except OSError as error:  # a full disk: go on answering from what there is
                log.error("cannot publish", collection=partition.collection.name, why=str(error))

    async def _write(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _report(partition: Partition) -> None:
    uid = partition.collection.uid
    metrics.RECORDS.labels(uid).set(partition.view.records)
    metrics.TAIL.labels(uid).set(partition.tail)
    metrics.SEQ.labels(uid).set(partition.cursor.seq)
    metrics.TRAINED.labels(uid).set(partition.view.trained is not None)
    metrics.TRAINING.labels(uid).set(partition.training)
