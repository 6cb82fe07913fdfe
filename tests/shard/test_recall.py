"""What is known of recall: the curve, what is observed, and what a partition makes of it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.shard.rows import clustered, collection, delete, upsert
from tests.shard.test_partition import build
from vitrail.shard.index import Choices, Flat, Floats, Metric, Reranked, Setting, Trained, choose_recipe
from vitrail.shard.partition import Partition
from vitrail.shard.recall import ENOUGH, FACTORS, SAMPLES, Curve, K, Observed, found_on_grid, grid, weights
from vitrail.shard.wanted import DRIFT_SAMPLES, wanted_build
from vitrail.v1.log_pb2 import Cursor

SLOTS = (0, 1024)


def curve(*rows: float, samples: int = SAMPLES) -> Curve:
    """Recall by nprobe 1, 2, 4 and so on at the last factor; each factor before it finds a hundredth less."""
    return Curve(
        nprobes=tuple(1 << n for n in range(len(rows))),
        recall=tuple(tuple(row - 0.01 * (len(FACTORS) - 1 - n) for n in range(len(FACTORS))) for row in rows),
        probe_seconds=tuple(1e-4 * (1 << n) for n in range(len(rows))),
        rerank_seconds=1e-7,
        samples=samples,
    )


def test_the_cheapest_setting_that_finds_enough() -> None:
    """On the frontier each point costs more and finds more; where nothing finds enough, the best one is taken."""
    made = curve(0.8, 0.9, 0.97)
    frontier = made.frontier()
    for before, after in itertools.pairwise(frontier):
        assert before.seconds < after.seconds
        assert before.recall < after.recall
    for target in (0.5, 0.795, 0.85, 0.95):
        enough = [point for point in made.points() if point.recall >= target]
        assert made.cheapest(target) == min(enough, key=lambda point: point.seconds)
    assert made.cheapest(0.99).setting == Setting(4, FACTORS[-1])


@pytest.mark.parametrize(
    ("nprobe", "factor", "known"),
    [
        (1, 40.0, 0.8),
        (3, 40.0, 0.9),
        (2, 28.0, 0.89),
        (100, 1000.0, 0.97),
        (4, 39.0, 0.96),
        (4, 1.0, 0.0),
        (0, 40.0, 0),
    ],
)
def test_what_a_setting_between_those_of_the_grid_finds(nprobe: int, factor: float, known: float) -> None:
    """At least what the best one below it does; nothing is known below them all."""
    assert curve(0.8, 0.9, 0.97).at(Setting(nprobe, factor)) == pytest.approx(known)


@pytest.mark.parametrize("lists", [1, 2, 3, 10, 100, 1000, 31_623])
def test_the_grid_ends_with_all_lists(lists: int) -> None:
    """Ascending, each once, up to all."""
    nprobes = grid(lists)
    assert list(nprobes) == sorted(set(nprobes))
    assert nprobes[0] >= 1
    assert nprobes[-1] == lists


def test_callers_queries_take_the_place_of_the_trainings() -> None:
    """They weigh the more the more there are, after enough of them nothing else counts, and then the latest do."""
    trained = curve(0.9, 0.99)
    observed = Observed(trained)
    nothing = np.zeros((2, len(FACTORS)), np.float32)
    for count in range(1, ENOUGH + 1):
        observed.add(nothing)
        share = 1 - count / ENOUGH
        assert observed.curve.recall[1][-1] == pytest.approx(0.99 * share, abs=1e-5)
        assert observed.curve.real_samples == count
    for _ in range(SAMPLES):
        observed.add(nothing + 1)
    assert observed.curve.recall[0][0] == 1
    assert observed.curve.samples == observed.curve.real_samples == SAMPLES
    assert observed.trained == trained


def test_what_is_observed_changes_the_setting() -> None:
    """When queries find little with few lists, more are probed from the next search on."""
    observed = Observed(curve(0.999, 0.9995, 1.0))
    before = observed.point(0.9)
    for _ in range(ENOUGH):
        observed.add(np.array(curve(0.5, 0.7, 0.99).recall, np.float32))
    assert observed.point(0.9).setting.nprobe > before.setting.nprobe
    assert not observed.is_hopeless(0.95)
    for _ in range(SAMPLES):
        observed.add(np.array(curve(0.1, 0.2, 0.3).recall, np.float32))
    assert observed.is_hopeless(0.95)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_found_on_grid_is_what_counting_finds(metric: Metric, share: float) -> None:
    """Each cell is the weighted share of true hits among the candidates that such a search reranks."""
    vectors = clustered(1000, 32)
    vectors[500:520] = vectors[0]  # duplicates share a score
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    recipe = choose_recipe(1000, 32, Choices(code_bytes=4))
    trained = Trained.train(vectors, recipe, metric)
    trained.add(vectors, np.arange(1000))
    flat = Flat(vectors, metric)
    main = Reranked(trained, flat, np.full(125, 255, np.uint8))
    nprobes = grid(recipe.lists)
    weight = weights(share)
    for query in (vectors[3], vectors[0], clustered(1, 32, seed=5)[0]):
        true = -np.sort(-flat.scores(query, np.arange(1000)))[:K]
        found = found_on_grid(main, flat, nprobes, query, true, share)
        for place, nprobe in enumerate(nprobes):
            candidates = main.candidates(query[np.newaxis], 401, nprobe)[0]
            for column, factor in enumerate(FACTORS):
                rows = candidates[: Setting(nprobe, factor).candidates(K)]
                reached = flat.scores(query, rows[rows >= 0])
                hits = [np.isclose(reached, score, rtol=1e-5, atol=0).any() for score in true]
                assert found[place, column] == pytest.approx(float(weight @ hits / weight.sum()), abs=1e-5)


def test_weights_are_how_often_a_shards_hits_are_among_the_best_of_all() -> None:
    """Counted: the best ten of all are dealt to shards, and a shard's r-th best is among them if it got so many."""
    random = np.random.default_rng(0)
    for share in (0.5, 0.125):
        got = random.binomial(K, share, 100_000)
        counted = [(got >= r).mean() for r in range(1, K + 1)]
        np.testing.assert_allclose(weights(share), counted, atol=0.01)
    assert (weights(1.0) == 1).all()


def filled(
    directory: Path, vectors: Floats, metric: Metric = "cosine", train_at: int = 100, **options: float
) -> Partition:
    made = collection(vectors.shape[1], metric, train_at)
    for name, value in options.items():
        setattr(made.index, name, value)
    partition = Partition(directory, made, SLOTS)
    add(partition, vectors)
    return partition


def add(partition: Partition, vectors: Floats, first: int = 0) -> None:
    partition.apply([upsert(f"r{first + row}", vector, first + row + 1) for row, vector in enumerate(vectors)])
    partition.checkpoint(Cursor(collection_uid=1, seq=first + len(vectors), mark=1))


def train(partition: Partition, bytes_a_record: float = 0.0) -> None:
    """Build what is wanted, with the choices that are wanted."""
    wanted = wanted_build(partition, bytes_a_record)
    assert wanted is not None
    built = build(partition, train=wanted.train, compact=wanted.compact, choices=wanted.choices)
    partition.swap(built)
    shutil.rmtree(built.directory)


def observe(partition: Partition, recall: Curve, count: int = DRIFT_SAMPLES) -> None:
    observed = partition._observed
    assert observed is not None
    for _ in range(count):
        observed.add(np.resize(np.array(recall.recall, np.float32)[-1], np.shape(observed.curve.recall)))


def test_recall_that_has_fallen_asks_for_training_once(tmp_path: Path) -> None:
    """With queries seen and rows changed, both; and not again where training does not help."""
    partition = filled(tmp_path, clustered(2000, 24))
    train(partition)
    assert wanted_build(partition) is None
    observe(partition, curve(0.7))
    assert wanted_build(partition) is None  # nothing has changed: the same index would come out
    add(partition, clustered(300, 24, seed=3), first=2000)
    wanted = wanted_build(partition)
    assert wanted is not None
    assert wanted.train
    assert "recall has fallen" in wanted.why
    train(partition)
    observe(partition, curve(0.7))
    assert wanted_build(partition) is None  # not in a loop
    add(partition, clustered(100, 24, seed=4), first=2300)
    assert wanted_build(partition) is None


def test_compaction_keeps_what_queries_of_callers_found(tmp_path: Path) -> None:
    """The index is the same one, so what is known of it still holds, and so does that rows have changed."""
    partition = filled(tmp_path, clustered(4000, 24))
    train(partition)
    observe(partition, curve(0.7))
    add(partition, clustered(1500, 24, seed=3))  # in the place of the first ones
    known, changes = partition.curve, partition.changes
    partition.swap(build(partition, train=False, compact=True))
    assert partition.dead == 0
    assert (partition.curve, partition.changes) == (known, changes)
    wanted = wanted_build(partition)
    assert wanted is not None
    assert "recall has fallen" in wanted.why


def test_finer_codes_where_coarse_ones_miss_the_target(tmp_path: Path) -> None:
    """Inner products with lengths of all kinds; the reason says what 4 bits found."""
    vectors = clustered(3000, 96)
    vectors *= np.random.default_rng(1).lognormal(0, 1.5, (3000, 1)).astype(np.float32)
    partition = filled(tmp_path, vectors, "inner_product", target_recall=0.999, code_bytes=8)
    train(partition)
    assert partition.trained is not None
    assert partition.trained.recipe.bits == 8
    assert "4 bits found" in partition.trained.recipe.reason
    assert wanted_build(partition) is None


def test_a_memory_budget_shortens_codes_and_is_outgrown(tmp_path: Path) -> None:
    """Codes fit what there is room for; when records grow beyond it, an index with shorter ones is asked for."""
    partition = filled(tmp_path, clustered(600, 64))
    train(partition, bytes_a_record=8 + 16)
    assert partition.trained is not None
    assert partition.trained.recipe.code_bytes <= 16
    assert wanted_build(partition, bytes_a_record=8 + 16) is None
    assert wanted_build(partition) is None
    wanted = wanted_build(partition, bytes_a_record=8 + 8)
    assert wanted is not None
    assert "memory budget" in wanted.why
    train(partition, bytes_a_record=8 + 8)
    assert partition.trained.recipe.code_bytes <= 8
    assert wanted_build(partition, bytes_a_record=8 + 8) is None


def test_fewer_records_without_a_budget_ask_for_nothing(tmp_path: Path) -> None:
    """A partition that shrank would be trained with shorter codes, which is no reason to train it."""
    partition = filled(tmp_path, clustered(500, 300), train_at=39)
    train(partition)
    partition.apply([delete(f"r{row}", 1000 + row) for row in range(400)])
    assert choose_recipe(100, 300).code_bytes < choose_recipe(496, 300).code_bytes
    assert wanted_build(partition) is None


def test_a_collections_options_are_honoured(tmp_path: Path) -> None:
    """In searching at once, in building at the next training, which a change asks for."""
    vectors = clustered(1000, 64)
    partition = filled(tmp_path, vectors, nprobe=5, rerank_factor=7.0, lists=11, components=32, code_bytes=16)
    train(partition)
    assert partition.trained is not None
    recipe = partition.trained.recipe
    assert (recipe.lists, recipe.code_bytes, recipe.factory) == (11, 16, "PCAR32,IVF11,PQ32x4fs")
    query = vectors[:1] / np.linalg.norm(vectors[0])
    assert partition.search(query, 10).setting == Setting(5, 7.0)
    assert partition.search(query, 10, nprobe=3).setting == Setting(3, 7.0)
    assert partition.search(query, 10, nprobe=1000).setting.nprobe == 11
    assert partition.search(query, 10, target=0.99).setting != Setting(5, 7.0)
    partition.collection.index.nprobe = 6
    assert partition.search(query, 10).setting.nprobe == 6
    assert wanted_build(partition) is None
    partition.collection.index.target_recall = 0.5
    assert partition.target == 0.5
    assert wanted_build(partition) is None
    partition.collection.index.lists = 13
    wanted = wanted_build(partition)
    assert wanted is not None
    assert wanted.train
    assert "another index" in wanted.why
    train(partition)
    assert partition.trained.recipe.lists == 13
    assert wanted_build(partition) is None
