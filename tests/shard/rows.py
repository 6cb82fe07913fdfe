"""What the tests of the shard share: collections, rows of the log, exact search by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.slots import slot_of
from vitrail.shard.index import Metric
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Row
from vitrail.v1.types_pb2 import Metric as MetricMessage

Floats = NDArray[np.float32]

METRICS: dict[Metric, MetricMessage.ValueType] = {
    "cosine": MetricMessage.METRIC_COSINE,
    "inner_product": MetricMessage.METRIC_INNER_PRODUCT,
    "euclidean": MetricMessage.METRIC_EUCLIDEAN,
}


def collection(dimension: int = 8, metric: Metric = "cosine", train_at: int = 10_000, uid: int = 1) -> Collection:
    return Collection(name="c", uid=uid, dimension=dimension, metric=METRICS[metric], train_at=train_at)


def upsert(record_id: str, vector: Floats, seq: int, attributes: bytes = b"") -> Row:
    return Row(
        id=record_id, seq=seq, slot=slot_of(record_id), vector=vector.astype("<f4").tobytes(), attributes=attributes
    )


def delete(record_id: str, seq: int) -> Row:
    return Row(id=record_id, seq=seq, slot=slot_of(record_id), deleted=True)


def clustered(count: int, dimension: int, seed: int = 0) -> Floats:
    """Vectors that lie near a few directions, as embeddings do: float32 [count, dimension]."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(4, count // 50), dimension))
    spread = random.normal(size=(count, dimension)) * 0.6
    return (centres[random.integers(0, len(centres), count)] + spread).astype(np.float32)


def scores(queries: Floats, vectors: Floats, metric: Metric) -> Floats:
    """The score of each query with each vector, float32 [q, n]."""
    if metric == "euclidean":
        distances: Floats = ((queries[:, np.newaxis] - vectors[np.newaxis]) ** 2).sum(axis=2)
        return -distances
    if metric == "cosine":
        queries, vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, vectors))
    return np.asarray(queries @ vectors.T, np.float32)


def best_ids(query: Floats, records: Mapping[str, Floats], metric: Metric, k: int) -> list[str]:
    """The ids of the k best records, by comparing with each of them."""
    ids = sorted(records)
    if not ids:
        return []
    found = scores(query[np.newaxis], np.stack([records[name] for name in ids]), metric)[0]
    return [ids[place] for place in np.argsort(-found, kind="stable")[:k]]


def recall(found: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> float:
    """The mean share of the true ones that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))
