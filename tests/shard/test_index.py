from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.shard.rows import clustered, recall, scores
from vitrail.rpc.process import anonymous_bytes, trim_memory
from vitrail.shard.files import Mismatch
from vitrail.shard.index import Bits, Choices, Flat, Floats, Metric, Reranked, Setting, Trained, choose_recipe

METRICS: list[Metric] = ["cosine", "inner_product", "euclidean"]


def bits(live: list[bool]) -> Bits:
    return np.packbits(np.array(live, bool), bitorder="little")


def everyone(rows: int) -> Bits:
    return np.full((rows + 7) // 8, 255, np.uint8)


def kept(vectors: Floats, metric: Metric) -> Floats | NDArray[np.float16]:
    """Vectors as a partition keeps them."""
    if metric == "cosine":
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float16)
    return vectors


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [2, 17, 300])
def test_flat_search_is_exact_where_vectors_lie(metric: Metric, dimension: int) -> None:
    """The flat index finds what comparing by hand finds, with scores that are larger for better."""
    vectors = clustered(500, dimension)
    queries = clustered(5, dimension, seed=1)
    if metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found, rows = Flat(kept(vectors, metric), metric).search(queries, 10, everyone(500))
    expected = scores(queries, vectors, metric)
    np.testing.assert_allclose(found, np.take_along_axis(expected, rows, 1), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found, -np.sort(-expected, axis=1)[:, :10], rtol=2e-3, atol=2e-3)


def test_flat_search_counts_only_rows_whose_bit_is_set() -> None:
    """Rows whose bit is clear, and rows beyond the bitmap, are never found."""
    vectors = clustered(40, 8)
    live = [row % 3 == 0 for row in range(24)]
    _, rows = Flat(vectors, "inner_product").search(vectors[:4], 40, bits(live))
    assert {row for row in rows.ravel().tolist() if row >= 0} == set(range(0, 24, 3))


def test_flat_search_of_nothing_finds_nothing() -> None:
    """An index without rows answers with no rows."""
    _, rows = Flat(np.zeros((0, 4), np.float16), "cosine").search(np.ones((2, 4), np.float32), 3, bits([]))
    assert (rows == -1).all()


@pytest.mark.parametrize(
    ("metric", "dimension"), [("cosine", 320), ("inner_product", 48), ("euclidean", 64), ("euclidean", 6)]
)
def test_trained_search_finds_nearly_all_and_scores_exactly(metric: Metric, dimension: int) -> None:
    """IVF-PQ with exact reranking has recall@10 of at least 0.9 here, and its scores are those of the flat index."""
    vectors = clustered(4000, dimension)
    queries = clustered(50, dimension, seed=0)[:50] + 0.1 * clustered(50, dimension, seed=3)
    if metric == "cosine":
        vectors, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, queries))
    flat = Flat(kept(vectors, metric), metric)
    recipe = choose_recipe(4000, dimension)
    trained = Trained.train(vectors, recipe, metric)
    trained.add(vectors, np.arange(4000))
    true_scores, true = flat.search(queries, 10, everyone(4000))
    found_scores, found = Reranked(trained, flat, everyone(4000)).search(queries, 10, Setting(recipe.lists // 2, 10))
    assert recall(found.tolist(), true.tolist()) >= 0.9
    same = found == true
    np.testing.assert_allclose(found_scores[same], true_scores[same], rtol=1e-5)


def test_trained_search_honours_bitmaps_and_a_flat_index_that_is_ahead() -> None:
    """Tombstones and rows beyond the bitmap are left out; rows that only the flat index has do not disturb."""
    vectors = clustered(2000, 32)
    recipe = choose_recipe(2000, 32)
    trained = Trained.train(vectors, recipe, "euclidean")
    trained.add(vectors[:1600], np.arange(1600))
    live = [row % 2 == 0 for row in range(1200)]
    main = Reranked(trained, Flat(vectors, "euclidean"), bits(live))
    _, rows = main.search(vectors[:50], 10, Setting(recipe.lists, 10))
    found = rows[rows >= 0]
    assert len(found) == 500
    assert (found % 2 == 0).all()
    assert (found < 1200).all()


def test_a_saved_index_answers_as_before(tmp_path: Path) -> None:
    """What is loaded finds the same rows as what was saved."""
    vectors = clustered(2000, 32)
    recipe, flat = choose_recipe(2000, 32), Flat(vectors, "euclidean")
    trained = Trained.train(vectors, recipe, "euclidean")
    trained.add(vectors, np.arange(2000))
    trained.save(tmp_path / "index")
    loaded = Trained.load(tmp_path / "index", recipe, "euclidean")
    before, after = (Reranked(index, flat, everyone(2000)) for index in (trained, loaded))
    asked = (vectors[:20], 10, Setting(8, 10))
    np.testing.assert_array_equal(before.search(*asked)[1], after.search(*asked)[1])


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_that_nobody_searches_any_more_is_freed(tmp_path: Path, metric: Metric) -> None:
    """Neither an index that was searched and added to stays in memory, nor the views of it."""
    rows, path = 1_000, tmp_path / "main"
    vectors = clustered(rows, 64)
    recipe = choose_recipe(rows, 64, Choices(lists=10))
    whole = Trained.train(vectors, recipe, metric)
    whole.save(path)
    whole.add(vectors, np.arange(rows))
    whole.save(tmp_path / "whole")
    size = 0.0
    for turn in range(60):
        trained, flat = Trained.load(path, recipe, metric), Flat(kept(vectors, metric), metric)
        trained.add(vectors, np.arange(rows))
        for _ in range(3):
            Reranked(trained, flat, everyone(rows)).search(vectors[:1], 10, Setting(4, 4.0))
        del trained, flat
        trim_memory()
        if turn == 9:
            size = anonymous_bytes()
    assert anonymous_bytes() - size < 50 * (tmp_path / "whole").stat().st_size / 4


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    """A file that is not an index is damage; one that cannot be opened is told as what it is."""
    recipe = choose_recipe(2000, 32)
    (tmp_path / "garbage").write_bytes(b"garbage")
    with pytest.raises(Mismatch, match="cannot be read"):
        Trained.load(tmp_path / "garbage", recipe, "cosine")
    with pytest.raises(FileNotFoundError):
        Trained.load(tmp_path / "nothing", recipe, "cosine")


@pytest.mark.parametrize("dimension", [2, 3, 15, 16, 17, 31, 97, 128, 255, 256, 257, 512, 768, 1280, 2048, 4096])
@pytest.mark.parametrize("records", [39, 100, 600, 10_000, 1_000_000])
def test_every_recipe_can_be_built(dimension: int, records: int) -> None:
    """For any dimension and size the recipe is one that faiss knows, with enough points a list."""
    recipe = choose_recipe(records, dimension)
    index = faiss.index_factory(dimension, recipe.factory)
    assert index.d == dimension
    assert records >= 39 * recipe.lists
    assert recipe.reason


@pytest.mark.parametrize("choices", [Choices(bits=8), Choices(code_bytes=16), Choices(components=50, lists=7, bits=4)])
def test_what_a_collection_asks_for_is_what_is_built(choices: Choices) -> None:
    """A recipe keeps to what it was given."""
    recipe = choose_recipe(20_000, 128, choices)
    index = faiss.index_factory(128, recipe.factory)
    assert recipe.bits == (choices.bits or 4)
    assert recipe.code_bytes == (choices.code_bytes or recipe.code_bytes)
    assert recipe.lists == (choices.lists or recipe.lists)
    if recipe.bits == 8:
        assert not faiss.downcast_index(faiss.extract_index_ivf(index)).do_polysemous_training


def test_codes_are_cut_to_fit_a_budget() -> None:
    """With room for 24 bytes a record, of which its id takes 8, a code takes at most 16, and the reason says so."""
    recipe = choose_recipe(20_000, 1280, Choices(bytes_a_record=24.0))
    faiss.index_factory(1280, recipe.factory)
    assert recipe.code_bytes <= 16
    assert "budget" in recipe.reason or "fit" in recipe.reason
