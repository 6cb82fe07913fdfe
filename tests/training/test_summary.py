"""Means with intervals, and two models on the same queries."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from tests.training.test_ranking import made
from vitrail.training.photos import Photo
from vitrail.training.ranking import PerQuery, evaluate
from vitrail.training.summary import compare, intervals, summary
from vitrail.training.vectors import Vectors


def leave_one_out(seed: int = 0, noise: float = 0) -> PerQuery:
    gallery = made("", 300, seed)
    noisy = gallery.vectors + noise * np.random.default_rng(1).standard_normal(gallery.vectors.shape)
    made_noisy = Vectors(gallery.photos, noisy.astype(np.float32))
    return evaluate(made_noisy, made_noisy)


def test_rows_are_all_queries_and_each_class() -> None:
    """Each mean is that of its queries; those with nothing relevant do not count, and neither do classes of such."""
    gallery = made("", 100)
    photos = [Photo("alone", "z"), *gallery.photos[1:]]
    queries = Vectors([*photos, Photo("other", "z"), Photo("none", "y")], gallery.vectors[[*range(100), 0, 0]])
    found = evaluate(queries, Vectors(photos, gallery.vectors))
    total, *classes = summary(found, ["AP", "P@10"])
    assert (total.name, total.queries) == ("", 100)
    assert [(row.name, row.queries) for row in classes if row.name > "e"] == [("z", 1)]
    assert [row.name for row in classes] == list("abcdez")
    assert total.values["AP"].mean == pytest.approx(found.measures.mean("AP"))
    assert classes[-1].values["AP"].mean == found.measures.of("AP")[100]
    of_a = [photo.label == "a" for photo in queries.photos]
    assert classes[0].queries == sum(of_a)
    assert classes[0].values["P@10"].mean == pytest.approx(found.measures.of("P@10")[of_a].mean())
    assert np.isnan(summary(evaluate(Vectors(photos[:1], gallery.vectors[:1]), gallery))[0].values["AP"].mean)


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(1, size=(200, 2)).astype(np.float32)
    for column, found in zip(values.T, intervals(values), strict=True):
        wanted = bootstrap((column,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
        assert found.mean == pytest.approx(column.mean())
        assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.01)
    assert intervals(values) == intervals(values)


def test_a_model_is_better_or_it_is_not() -> None:
    """A clearly better one is said to be so with its interval; where two differ by noise alone, nothing is claimed."""
    base, worse = leave_one_out(), leave_one_out(noise=2)
    better = compare(worse, base, ["AP"])["AP"]
    assert better.interval.mean == pytest.approx(base.measures.mean("AP") - worse.measures.mean("AP"), abs=1e-6)
    assert better.interval.low > 0
    assert better.p_value < 0.01
    alike = compare(base, base, ["AP"])["AP"]
    assert (alike.interval.mean, alike.p_value) == (0, 1)


def test_models_are_compared_on_the_same_queries() -> None:
    gallery = made("", 50)
    found = evaluate(gallery, gallery)
    other = evaluate(Vectors(gallery.photos[:9], gallery.vectors[:9]), gallery)
    with pytest.raises(ValueError, match="the same queries"):
        compare(found, other)
    alone = evaluate(Vectors([Photo("alone", "z")], gallery.vectors[:1]), gallery)
    with pytest.raises(ValueError, match="anything relevant"):
        compare(alone, alone)
