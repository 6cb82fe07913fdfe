"""Building: a process of its own, of low priority, that reads a snapshot of a partition and hands over files.

It trains an index, or leaves dead rows behind, or both. Run as `python -m vitrail.shard.building`, it takes a job as
JSON on standard input and answers with a result as JSON on standard output. What it reads is append-only, so the
shard goes on writing meanwhile.
"""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict

from vitrail.rpc.process import child_environment, die_with_parent
from vitrail.shard.bitmap import pack, rows_of
from vitrail.shard.files import hash_file, sync
from vitrail.shard.index import (
    Choices,
    Flat,
    Floats,
    Metric,
    Recipe,
    Reranked,
    Rows,
    Trained,
    choose_recipe,
    to_float32,
    training_rows,
    use_one_thread,
)
from vitrail.shard.manifest import TableFiles, TrainedFile
from vitrail.shard.partition import BUILDING, Built, Partition, Snapshot
from vitrail.shard.recall import FACTORS, SAMPLES, Curve, K, costs, found_on_grid, grid
from vitrail.shard.table import Table, Vectors
from vitrail.shard.wanted import Wanted

NICENESS = 10
ADD_SLICE = 4096
TRUTH_SLICE = 8192
SEED = 20_240_801  # any: the same rows give the same index
COST_QUERIES = 32


class Job(BaseModel):
    """What to build, and of what."""

    model_config = ConfigDict(frozen=True)
    partition: Path
    table: TableFiles
    trained: TrainedFile | None
    dimension: int
    metric: Metric
    dtype: str
    rows: int
    """The rows before this one; a multiple of 8."""
    target: float
    """The recall that searches are to have."""
    share: float
    """What the shard holds of all records of the collection."""
    train: bool
    compact: bool
    choices: Choices
    directory: Path
    """Where to build. It holds `live`, one bit a row, the lowest first."""


class Result(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)
    table: TableFiles | None
    trained: TrainedFile | None


class BuildingFailed(Exception):
    """The process ended without a result; the message is what it wrote to standard error."""


async def build(partition: Partition, snapshot: Snapshot, wanted: Wanted) -> Built:
    """Build of a partition as its snapshot has it, in another process.

    Raises:
        BuildingFailed: The process failed, or was killed.
        OSError: The disk is full.
    """
    directory = partition.directory.absolute() / f"{BUILDING}{uuid4().hex[:8]}"
    directory.mkdir()
    try:
        (directory / "live").write_bytes(snapshot.view.live[: snapshot.rows // 8].tobytes())
        job = Job(
            partition=partition.directory.absolute(),
            table=snapshot.table,
            trained=snapshot.trained,
            dimension=partition.dimension,
            metric=partition.metric,
            dtype=partition.dtype.str,
            rows=snapshot.rows,
            target=partition.target,
            share=partition.share,
            train=wanted.train,
            compact=wanted.compact,
            choices=wanted.choices,
            directory=directory,
        )
        result = await _run(job)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Built(snapshot, directory, result.table, result.trained)


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
        raise BuildingFailed(errors.decode(errors="replace")[-2000:] or f"exit status {process.returncode}")
    return Result.model_validate_json(output)


def run(job: Job) -> Result:
    """Build what a job asks for."""
    dtype = np.dtype(job.dtype)
    table = Table(job.partition / job.table.directory, job.dimension, dtype, job.table, frozen=True)
    live = rows_of(np.frombuffer((job.directory / "live").read_bytes(), np.uint8))
    compacted = None
    if job.compact:
        table, source = Table(job.directory / "table", job.dimension, dtype), table
        table.copy(source, live)
        table.sync()
        compacted = table.described()
        live = np.arange(len(table) // 8 * 8)
    trained = _trained(job, table.vectors, live, len(table) // 8 * 8 if job.compact else job.rows)
    return Result(table=compacted, trained=trained)


def _trained(job: Job, vectors: Vectors, live: Rows, rows: int) -> TrainedFile | None:
    """The new index over the live rows, written to the job's directory."""
    choices = job.choices.of_collection()
    if job.train:
        recipe = choose_recipe(len(live), job.dimension, job.choices)
        index, curve = train(vectors, live, recipe, job.metric, job.share)
        can_be_finer = recipe.bits == 4 and not job.choices.bits and len(live) >= 1 << 8
        if can_be_finer and curve.cheapest(job.target).recall < job.target:
            other = choose_recipe(len(live), job.dimension, job.choices.model_copy(update={"bits": 8}))
            why = f"{other.reason}, since 4 bits found {curve.cheapest(job.target).recall:.3f}"
            finer, finer_curve = train(vectors, live, other.model_copy(update={"reason": why}), job.metric, job.share)
            if finer_curve.cheapest(job.target).recall > curve.cheapest(job.target).recall:
                index, curve = finer, finer_curve
        described = {"trained_on": len(live), "choices": choices, "version": ""}
    elif job.trained is not None:
        index = Trained.load(job.partition / job.trained.file.name, job.trained.recipe, job.metric)
        index.clear()
        add(index, vectors, live)
        curve = job.trained.curve
        described = job.trained.model_dump(include={"trained_on", "choices", "version"})
    else:
        return None
    path = job.directory / "main"
    index.save(path)
    sync(path)
    return TrainedFile(file=hash_file(path), rows=rows, recipe=index.recipe, curve=curve, **described)


def train(vectors: Vectors, live: Rows, recipe: Recipe, metric: Metric, share: float) -> tuple[Trained, Curve]:
    """Train on a sample of rows, add all of them, and measure what is found.

    Args:
        vectors: [n, d], as a table keeps them.
        live: The rows to index, ascending.
        recipe: What to train.
        metric: How vectors compare.
        share: What the shard holds of all records.
    """
    random = np.random.default_rng(SEED)
    sample = np.sort(random.choice(live, min(len(live), training_rows(recipe)), replace=False))
    index = Trained.train(to_float32(vectors[sample]), recipe, metric)
    add(index, vectors, live)
    asked = np.sort(random.choice(live, min(len(live), SAMPLES), replace=False))
    return index, measure(index, vectors, live, asked, share)


def add(index: Trained, vectors: Vectors, live: Rows) -> None:
    """Add rows to an index, slice by slice."""
    for start in range(0, len(live), ADD_SLICE):
        rows = live[start : start + ADD_SLICE]
        index.add(to_float32(vectors[rows]), rows)


def measure(index: Trained, vectors: Vectors, live: Rows, asked: Rows, share: float) -> Curve:
    """The curve of an index over some of its own rows, each searched without itself."""
    flat = Flat(vectors, index.metric)
    chosen = np.zeros(-(-len(vectors) // 8) * 8, bool)
    chosen[live] = True
    main = Reranked(index, flat, pack(chosen))
    queries = to_float32(vectors[asked])
    nprobes = grid(index.recipe.lists)
    found = np.zeros((len(asked), len(nprobes), len(FACTORS)), np.float32)
    for place, best in enumerate(best_rows(vectors, live, asked, queries, index.metric)):
        query, itself = queries[place], int(asked[place])
        true = -np.sort(-flat.scores(query, best[best >= 0]))
        found[place] = found_on_grid(main, flat, nprobes, query, true, share, itself)
    probe_seconds, rerank_seconds = costs(main, nprobes, queries[:COST_QUERIES])
    return Curve(
        nprobes=nprobes,
        recall=tuple(tuple(map(float, row)) for row in found.mean(axis=0)),
        probe_seconds=probe_seconds,
        rerank_seconds=rerank_seconds,
        samples=len(asked),
    )


def best_rows(vectors: Vectors, live: Rows, asked: Rows, queries: Floats, metric: Metric) -> Rows:
    """The K best live rows for each asked one but itself, int64 [q, K]; -1 where there are fewer."""
    scores = np.full((len(asked), K), -np.inf, np.float32)
    best = np.full((len(asked), K), -1, np.int64)
    for start in range(0, len(live), TRUTH_SLICE):
        rows = live[start : start + TRUTH_SLICE]
        others = to_float32(vectors[rows])
        products = queries @ others.T
        if metric == "euclidean":  # minus the squared distance, but for what is the same for all rows
            products = 2 * products - np.einsum("nd,nd->n", others, others)
        products[asked[:, np.newaxis] == rows] = -np.inf
        scores = np.hstack([scores, products])
        best = np.hstack([best, np.where(np.isneginf(products), -1, rows)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
    return best


def main() -> None:
    die_with_parent()
    os.nice(NICENESS)
    use_one_thread()
    job = Job.model_validate_json(sys.stdin.buffer.read())
    sys.stdout.write(run(job).model_dump_json())


if __name__ == "__main__":
    main()
