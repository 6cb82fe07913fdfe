"""Training: a process of its own, of low priority, that reads a partition's vectors and hands over an index file.

It runs as `python -m vitrail.shard.training`, takes a job as JSON on standard input and answers with a result as
JSON on standard output. The vectors file is append-only, so it reads while the shard goes on writing.
"""

import asyncio
import os
import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict

from vitrail.rpc.process import child_environment, die_with_parent
from vitrail.shard.index import Metric, Recipe, Trained, choose_recipe, training_rows, use_one_thread
from vitrail.shard.partition import TRAINING, Partition, TrainedFile

NICENESS = 10
ADD_SLICE = 8192
SEED = 20_240_801  # any: the same rows give the same index


class Job(BaseModel):
    """What to train on."""

    model_config = ConfigDict(frozen=True)
    directory: Path
    dimension: int
    metric: Metric
    dtype: str
    rows: int
    """The rows before this one; a multiple of 8."""
    live: str
    """A file with one bit a row, the lowest first."""
    file: str
    """The name of the index file to write."""


class Result(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)
    trained_on: int
    recipe: Recipe


class TrainingFailed(Exception):
    """The process ended without an index; the message is what it wrote to standard error."""


async def train(partition: Partition) -> TrainedFile:
    """Train a partition as it is now, in another process.

    Raises:
        TrainingFailed: The process failed, or was killed.
    """
    view, life = partition.view, partition.life
    name = uuid4().hex[:8]
    rows = view.rows // 8 * 8
    live = partition.directory / f"{TRAINING}live-{name}"
    live.write_bytes(view.live[: rows // 8].tobytes())
    job = Job(
        directory=partition.directory.absolute(),
        dimension=partition.dimension,
        metric=partition.metric,
        dtype=partition.dtype.str,
        rows=rows,
        live=live.name,
        file=f"{TRAINING}main-{name}",
    )
    try:
        result = await _run(job)
    finally:
        live.unlink(missing_ok=True)
    return TrainedFile(job.file, life, rows, result.trained_on, result.recipe)


async def _run(job: Job) -> Result:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe, env=child_environment()
    )
    try:
        output, errors = await process.communicate(job.model_dump_json().encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise TrainingFailed(errors.decode(errors="replace")[-2000:] or f"exit status {process.returncode}")
    return Result.model_validate_json(output)


def run(job: Job) -> Result:
    """Train on a sample of the live rows, then add all of them."""
    size = job.rows * job.dimension
    vectors = np.memmap(job.directory / "vectors", np.dtype(job.dtype), "r", shape=(size,)).reshape(job.rows, -1)
    bits = np.frombuffer((job.directory / job.live).read_bytes(), np.uint8)
    live = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    recipe = choose_recipe(len(live), job.dimension)
    wanted = min(len(live), training_rows(recipe))
    sample = np.sort(np.random.default_rng(SEED).choice(live, wanted, replace=False))
    trained = Trained.train(vectors[sample].astype(np.float32), recipe, job.metric)
    for start in range(0, len(live), ADD_SLICE):
        rows = live[start : start + ADD_SLICE]
        trained.add(vectors[rows].astype(np.float32), rows.astype(np.int64))
    trained.save(job.directory / job.file)
    return Result(trained_on=len(live), recipe=recipe)


def main() -> None:
    die_with_parent()
    os.nice(NICENESS)
    use_one_thread()
    job = Job.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.write(run(job).model_dump_json())


if __name__ == "__main__":
    main()
