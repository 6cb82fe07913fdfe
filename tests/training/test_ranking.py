"""Rankings and their measures, against scikit-learn and against the definitions in a few lines."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from vitrail.client import InvalidArgument
from vitrail.training import ranking
from vitrail.training.measures import LEVELS, Floats
from vitrail.training.photos import Photo
from vitrail.training.ranking import METRICS, Metric, evaluate
from vitrail.training.vectors import Vectors

LABELS = "abcde"


def made(prefix: str, count: int, seed: int = 0, dimension: int = 16) -> Vectors:
    """Vectors that lean towards their label."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(LABELS), size=count)
    vectors = random.standard_normal((count, dimension)) + 1.5 * np.eye(dimension)[labels] + 1
    photos = [Photo(f"{prefix}{number:04}.jpg", LABELS[label]) for number, label in enumerate(labels)]
    return Vectors(photos, vectors.astype(np.float32))


def scores_of(query: Any, gallery: Vectors, metric: Metric) -> Any:
    """As a textbook has them."""
    query, vectors = query.astype(float), gallery.vectors.astype(float)
    if metric == "euclidean":
        return -np.square(vectors - query).sum(axis=1)
    scores = vectors @ query
    return scores / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query) if metric == "cosine" else scores


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    found: Metric = request.param
    return found


def test_measures_are_those_of_scikit_learn(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each metric, over blocks, the query left out: AP and NDCG as scikit-learn has them, others as defined."""
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 0)
    gallery = made("", 400)
    queries = Vectors(gallery.photos[::2], gallery.vectors[::2])
    found = evaluate(queries, gallery, metric)
    for place, photo in enumerate(queries.photos):
        others = np.arange(len(gallery.photos)) != 2 * place
        scores = scores_of(queries.vectors[place], gallery, metric)[others]
        right = np.array([other.label == photo.label for other in gallery.photos])[others]
        ranked = right[np.argsort(-scores)]
        count = right.sum()
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        wanted = {
            "AP": average_precision_score(right, scores),
            "NDCG@10": ndcg_score([right], [scores], k=10),
            "NDCG@100": ndcg_score([right], [scores], k=100),
            "AP@R": (precision * ranked)[:count].sum() / count,
            "P@1": float(ranked[0]),
            "P@10": ranked[:10].mean(),
            "hit@3": float(ranked[:3].any()),
            "recall@50": ranked[:50].sum() / count,
            "RR": 1 / (ranked.argmax() + 1),
        }
        for name, value in wanted.items():
            assert found.measures.of(name)[place] == pytest.approx(value, abs=1e-3), name  # float32 swaps neighbours
        reached = np.ceil(count * np.arange(1, LEVELS + 1) / LEVELS)
        places = np.searchsorted(np.cumsum(ranked), reached)
        np.testing.assert_allclose(found.measures.precision[place], precision[places], atol=1e-5)
        best = np.sort(scores)[::-1][:10]
        np.testing.assert_allclose(found.scores[place], best, rtol=1e-4)
        assert [gallery.photos[other].label == photo.label for other in found.top[place]] == list(ranked[:10])
        assert found.right[place].tolist() == list(ranked[:10])


def published(vectors: Floats, labels: list[int]) -> dict[str, float]:
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "precision_at_1", "mean_reciprocal_rank"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    given = torch.from_numpy(vectors), torch.tensor(labels)
    found: dict[str, float] = calculator.get_accuracy(*given, *given, ref_includes_query=True)
    return found


def test_measures_are_those_of_pytorch_metric_learning() -> None:
    """AP@R, hit@1 and MRR over all photos, as Musgrave's own code has them."""
    gallery = made("", 300)
    labels = [ord(photo.label) for photo in gallery.photos]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # its measures put methods of their own into faiss
        wanted = pool.submit(published, gallery.vectors, labels).result()
    found = evaluate(gallery, gallery).measures
    assert found.mean("AP@R") == pytest.approx(wanted["mean_average_precision_at_r"], abs=1e-4)
    assert found.mean("hit@1") == pytest.approx(wanted["precision_at_1"], abs=1e-6)
    assert found.mean("RR") == pytest.approx(wanted["mean_reciprocal_rank"], abs=1e-4)


@pytest.mark.parametrize("levels", [4, 100, 10_000])
def test_many_or_few_equal_scores(levels: int) -> None:
    """Whatever share of scores is found twice, ranks are those of one order: by score, then by place."""
    random = np.random.default_rng(0)
    vectors = random.integers(1, levels, size=(2000, 1)).astype(np.float32)
    gallery = Vectors([Photo(f"{n}", LABELS[n % 5]) for n in range(2000)], vectors)
    found = evaluate(Vectors([Photo("query", "b")], np.ones((1, 1), np.float32)), gallery, "inner_product")
    order = np.argsort(-vectors[:, 0], kind="stable")
    ranks = 1 + np.flatnonzero(order % 5 == 1)
    assert found.measures.of("AP")[0] == pytest.approx((np.arange(1, 401) / ranks).mean())
    assert found.top[0].tolist() == order[:10].tolist()


def test_equal_scores_stand_in_the_order_of_the_gallery() -> None:
    """A ranking is one order, not one of many: what counts does not depend on the sort."""
    gallery = Vectors([Photo(f"{n}.jpg", "ab"[n % 2]) for n in range(20)], np.ones((20, 3), np.float32))
    found = evaluate(Vectors([Photo("query", "b")], np.ones((1, 3), np.float32)), gallery)
    assert found.top.tolist() == [list(range(10))]
    assert found.measures.of("RR").tolist() == [0.5]
    assert found.measures.mean("AP") == pytest.approx(0.5)
    own = evaluate(Vectors([Photo("3.jpg", "b")], np.ones((1, 3), np.float32)), gallery)
    assert own.top.tolist() == [[0, 1, 2, 4, 5, 6, 7, 8, 9, 10]]


def test_a_query_with_nothing_relevant_does_not_count() -> None:
    """Alone in its class, without a label, or of a label that the gallery lacks: left out of the mean."""
    gallery = made("", 50)
    photos = [gallery.photos[0], Photo("alone", "z"), Photo("unlabelled", "")]
    found = evaluate(Vectors(photos, gallery.vectors[:3]), gallery)
    assert np.isnan(found.measures.of("AP")).tolist() == [False, True, True]
    assert found.measures.mean("AP") == found.measures.of("AP")[0]
    assert np.isnan(evaluate(Vectors(photos[1:], gallery.vectors[1:3]), gallery).measures.mean("AP"))
    none = evaluate(Vectors([], gallery.vectors[:0]), gallery)
    assert np.isnan(none.measures.mean("P@10"))
    assert none.top.dtype == np.int64
    assert none.top.shape == none.right.shape == (0, 10)


def test_relevance_by_pairs() -> None:
    """What is relevant may be given, instead of labels; the query itself never is."""
    gallery = made("", 50)
    queries = Vectors(gallery.photos[:2], gallery.vectors[:2])
    best = evaluate(queries, gallery).top
    found = evaluate(queries, gallery, relevant=[best[0, 1:3], np.array([1])])
    assert found.measures.of("AP")[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.measures.relevant.tolist() == [2, 0]


def test_a_mean_that_all_vectors_share_costs_nothing() -> None:
    """Euclidean ranks vectors far from zero as those around it."""
    tops = []
    for shift in (0, 4096):
        near, queries = made("", 300), made("q", 50, seed=1)
        for each in (near, queries):
            each.vectors[:] = np.round(each.vectors * 64) / 64 + shift
        tops.append(evaluate(queries, near, "euclidean").top)
    assert (tops[0] == tops[1]).all()


def with_a_bad_one(value: float) -> Vectors:
    bad = made("", 5)
    bad.vectors[3] = value
    return bad


@pytest.mark.parametrize(
    ("queries", "gallery", "why"),
    [
        (made("q", 2), with_a_bad_one(np.nan), "0003.jpg cannot be compared"),
        (made("q", 2), with_a_bad_one(0), "0003.jpg cannot be compared"),
        (with_a_bad_one(np.inf), made("", 5), "0003.jpg cannot be compared"),
        (made("q", 2, dimension=15), made("", 5), r"2 photos with vectors \(2, 15\)"),
        (made("q", 2), made("", 1), "a gallery of one photo"),
    ],
    ids=["nan", "zero", "infinite", "dimension", "one-photo"],
)
def test_what_cannot_be_ranked(queries: Vectors, gallery: Vectors, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        evaluate(queries, gallery)


@pytest.mark.parametrize("name", ["MAP", "P@0", "P@101", "AP@10", "P@x"])
def test_no_measure_of_that_name(name: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        evaluate(made("q", 2), made("", 5)).measures.of(name)
