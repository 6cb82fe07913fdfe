"""Data that no index likes: all answered, exactly and trained, with as many hits as there are and no NaN."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.shard.rows import clustered, collection, delete, scores, upsert
from tests.shard.test_partition import build, ids_of
from vitrail.shard.index import Floats, Metric
from vitrail.shard.partition import Partition
from vitrail.shard.wanted import wanted_build
from vitrail.v1.log_pb2 import Cursor

SLOTS = (0, 1024)
METRICS: list[Metric] = ["cosine", "inner_product", "euclidean"]


def identical(count: int, dimension: int) -> Floats:
    return np.tile(clustered(1, dimension), (count, 1))


def on_a_line(count: int, dimension: int) -> Floats:
    return np.linspace(1, 2, count, dtype=np.float32)[:, np.newaxis] * clustered(1, dimension)


def through_the_origin(count: int, dimension: int) -> Floats:
    factors = np.linspace(-1, 1, count + count % 2, dtype=np.float32)[:count]  # an even number of them, without 0
    return factors[:, np.newaxis] * clustered(1, dimension)


def many_duplicates(count: int, dimension: int) -> Floats:
    return clustered(7, dimension)[np.arange(count) % 7]


def one_apart(count: int, dimension: int) -> Floats:
    vectors = identical(count, dimension)
    vectors[-1] *= -1000
    return vectors


def of_all_lengths(count: int, dimension: int) -> Floats:
    return np.asarray(clustered(count, dimension) * np.logspace(-15, 15, count)[:, np.newaxis], np.float32)


DATA: dict[str, Callable[[int, int], Floats]] = {
    "identical": identical,
    "on a line": on_a_line,
    "on a line through the origin": through_the_origin,
    "many duplicates": many_duplicates,
    "identical but one": one_apart,
    "of all lengths": of_all_lengths,
}
SIZES = {2: 200, 3: 200, 17: 1000, 4096: 48}


def filled(directory: Path, vectors: Floats, metric: Metric, train_at: int = 39) -> Partition:
    partition = Partition(directory, collection(vectors.shape[1], metric, train_at), SLOTS)
    partition.apply([upsert(f"r{row}", vector, row + 1) for row, vector in enumerate(vectors)])
    partition.checkpoint(Cursor(collection_uid=1, seq=len(vectors), mark=1))
    return partition


def answers(partition: Partition, queries: Floats, metric: Metric, vectors: Floats) -> None:
    """Whatever is asked, there are as many hits as can be, each once, best first, with their own scores."""
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    records = len(vectors)
    for k in (1, records + 10):
        for everything in (False, True):
            for exact in (True, False):
                found = partition.search(
                    queries, k, exact=exact, nprobe=65_536 * everything, rerank_factor=1e6 * everything
                )
                hits = found.rows >= 0
                if exact or found.exact or everything:
                    assert (hits.sum(axis=1) == min(k, records)).all()
                assert np.isfinite(found.scores[hits]).all()
                assert not np.isnan(found.scores).any()
                for query, got, row_scores in zip(queries, ids_of(partition, found), found.scores, strict=True):
                    assert len(got) == len(set(got))
                    of_hits = row_scores[: len(got)]
                    assert (np.diff(of_hits) <= 0).all()
                    if got:
                        own = scores(query[np.newaxis], vectors[[int(name[1:]) for name in got]], metric)[0]
                        tolerance = 2e-3 * (1 if metric == "cosine" else np.abs(own).max())
                        np.testing.assert_allclose(of_hits, own, rtol=2e-3, atol=tolerance)


def train(partition: Partition, *, training: bool = True, compact: bool = False) -> None:
    built = build(partition, train=training, compact=compact)
    partition.swap(built)
    shutil.rmtree(built.directory)
    assert partition.curve is None or not np.isnan(partition.curve.recall).any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", SIZES)
@pytest.mark.parametrize("data", DATA)
def test_degenerate_vectors(tmp_path: Path, data: str, dimension: int, metric: Metric) -> None:
    """Exact and trained, published and opened again, compacted and written to."""
    vectors = DATA[data](SIZES[dimension], dimension)
    queries = np.vstack([vectors[:1], vectors[-1:], clustered(1, dimension, seed=4)])
    partition = filled(tmp_path, vectors, metric)
    answers(partition, queries, metric, vectors)
    train(partition)
    answers(partition, queries, metric, vectors)
    partition.apply([upsert(f"r{row}", vectors[row], 5000 + row) for row in range(30)])
    while partition.tail >= 8:
        partition.fold()
    answers(partition, queries, metric, vectors)
    train(partition, training=False, compact=True)
    answers(partition, queries, metric, vectors)
    partition.publish()
    partition.close()
    again = Partition(tmp_path, collection(dimension, metric, 39), SLOTS)
    assert again.rebuilt == ""
    answers(again, queries, metric, vectors)
    again.search(queries, 10)
    again.observe()
    assert again.curve is None or not np.isnan(again.curve.recall).any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", SIZES)
def test_one_vector_and_none(tmp_path: Path, dimension: int, metric: Metric) -> None:
    """A single record, and none after it was deleted, compacted and published."""
    vectors = clustered(1, dimension)
    partition = filled(tmp_path, vectors, metric)
    answers(partition, vectors, metric, vectors)
    train(partition, training=False, compact=True)
    answers(partition, vectors, metric, vectors)
    partition.apply([delete("r0", 2)])
    answers(partition, clustered(2, dimension), metric, vectors[:0])
    train(partition, training=False, compact=True)
    assert partition.view.rows == 0
    answers(partition, clustered(2, dimension), metric, vectors[:0])
    partition.publish()
    partition.close()
    again = Partition(tmp_path, collection(dimension, metric, 39), SLOTS)
    assert again.rebuilt == ""
    answers(again, clustered(2, dimension), metric, vectors[:0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [3, 17])
def test_all_deleted_from_a_trained_partition(tmp_path: Path, dimension: int, metric: Metric) -> None:
    """Before and after compaction it answers with nothing, and goes on when records come back."""
    vectors = clustered(400, dimension)
    partition = filled(tmp_path, vectors, metric)
    train(partition)
    partition.apply([delete(f"r{row}", 1000 + row) for row in range(400)])
    answers(partition, vectors[:2], metric, vectors[:0])
    train(partition, training=False, compact=True)
    assert partition.view.rows == 0
    answers(partition, vectors[:2], metric, vectors[:0])
    partition.publish()
    partition.close()
    again = Partition(tmp_path, collection(dimension, metric, 39), SLOTS)
    answers(again, vectors[:2], metric, vectors[:0])
    again.apply([upsert(f"r{row}", vectors[row], 2000 + row) for row in range(100)])
    while again.tail >= 8:
        again.fold()
    answers(again, vectors[:2], metric, vectors[:100])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("records", [39, 40, 47, 100, 300])
def test_the_smallest_trainings(tmp_path: Path, records: int, bits: int, metric: Metric) -> None:
    """With `train_at` at its least, and codes of either kind, there is an index and nothing fails."""
    vectors = clustered(records, 32)
    partition = filled(tmp_path, vectors, metric)
    partition.collection.index.bits = bits
    wanted = wanted_build(partition)
    assert wanted is not None
    built = build(partition, choices=wanted.choices)
    partition.swap(built)
    assert partition.state == "trained"
    assert wanted_build(partition) is None
    answers(partition, vectors[:3], metric, vectors)
