"""A trained index with a copy on a device: what it finds is what it finds in RAM. A stand-in takes the GPU's place."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from tests.bench.gpu import alike, compare
from tests.shard.devices import StandIn, check_is_searchable
from tests.shard.rows import clustered, collection, delete, upsert
from tests.shard.test_index import METRICS, kept
from tests.shard.test_partition import SLOTS, build, fill, ids_of
from vitrail.shard.bitmap import pack
from vitrail.shard.device import Device
from vitrail.shard.index import (
    Bits,
    Choices,
    Flat,
    Floats,
    Metric,
    Reranked,
    Setting,
    Trained,
    choose_recipe,
    find_device,
)
from vitrail.shard.partition import Partition
from vitrail.shard.wanted import wanted_build

ROWS = 4000
DIMENSION = 32
SETTING = Setting(20, 8.0)


class World:
    """One index, in RAM alone and with a copy."""

    def __init__(self, directory: Path, metric: Metric) -> None:
        vectors, queries = clustered(ROWS, DIMENSION), clustered(80, DIMENSION)[:40] + 0.1
        if metric == "cosine":
            vectors, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, queries))
        self.vectors, self.queries = vectors, np.ascontiguousarray(queries, np.float32)
        self.flat = Flat(kept(vectors, metric), metric)
        recipe = choose_recipe(ROWS, DIMENSION, Choices(components=24, for_gpu=True))  # with a transform
        made = Trained.train(vectors[:2000], recipe, metric)
        made.add(vectors[:2000], np.arange(2000))
        made.save(directory / "index")
        self.stand_in = StandIn()
        self.ram = Trained.load(directory / "index", recipe, metric)
        self.both = Trained.load(directory / "index", recipe, metric, self.stand_in.device)
        for trained in (self.ram, self.both):
            for start in range(2000, ROWS, 500):
                trained.add(vectors[start : start + 500], np.arange(start, start + 500))

    def agrees(self, live: Bits, k: int = 10, setting: Setting = SETTING) -> int:
        """Whether both find the same; how many queries the device was asked."""
        before = self.stand_in.searched
        (expected, expected_rows), (scores, rows) = (
            Reranked(trained, self.flat, live).search(self.queries, k, setting) for trained in (self.ram, self.both)
        )
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(scores[rows >= 0], expected[rows >= 0], rtol=1e-5, atol=1e-5)
        return self.stand_in.searched - before


@pytest.fixture(params=METRICS)
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return World(tmp_path, request.param)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.2])
def test_it_finds_what_ram_finds(world: World, share: float) -> None:
    """After loading and adding, whatever share of the rows counts; the device is asked."""
    live = np.random.default_rng(1).random(ROWS) < share
    assert world.agrees(pack(live)) == len(world.queries)
    assert world.agrees(pack(live[: ROWS // 2])) == len(world.queries)  # as a view from before the rest was added


def test_what_it_cannot_do_is_done_in_ram(world: World) -> None:
    """Few rows that count, many candidates, many lists: it is not asked."""
    random = np.random.default_rng(2)
    everyone = np.ones(ROWS, bool)
    assert world.agrees(pack(random.random(ROWS) < 0.01)) == 0
    assert world.agrees(pack(~everyone)) == 0
    assert world.agrees(pack(everyone), k=300) == 0
    assert world.agrees(pack(everyone), setting=Setting(3000, 8.0)) == 0


def test_a_query_left_with_too_few_is_one_for_ram(world: World) -> None:
    """Where what counts lies far from what is asked for, as with a filter on what the query is not."""
    near = Reranked(world.ram, world.flat, pack(np.ones(ROWS, bool))).candidates(world.queries[:1], 400, 50)[0]
    live = np.random.default_rng(3).random(ROWS) < 0.5
    live[near] = False
    assert world.agrees(pack(live)) == len(world.queries)


def test_a_full_device_is_left(tmp_path: Path) -> None:
    """When it is loaded, while rows come in and while it is searched: answers go on, and why is said."""
    for moment in ("load", "add", "search"):
        world = World(tmp_path, "inner_product")
        assert (world.both.place, world.stand_in.held) == ("searched by a GPU", 1)
        world.stand_in.is_full = True
        if moment == "load":
            world.both = Trained.load(tmp_path / "index", world.both.recipe, "inner_product", world.stand_in.device)
            for trained in (world.ram, world.both):
                trained.clear()
                trained.add(world.vectors, np.arange(ROWS))
        elif moment == "add":
            for trained in (world.ram, world.both):
                trained.add(world.vectors[:8], np.arange(ROWS, ROWS + 8))
        assert world.agrees(pack(np.ones(ROWS, bool))) == 0
        assert world.both.place == "not searched by a GPU: no room"
        assert world.stand_in.held == 0
        world.stand_in.is_full = False
        assert world.agrees(pack(np.ones(ROWS, bool))) == 0


@pytest.mark.parametrize("dimension", [15, 16, 97, 257, 1280])
@pytest.mark.parametrize("records", [39, 255, 256, 100_000])
@pytest.mark.parametrize(
    "choices", [Choices(), Choices(code_bytes=50), Choices(code_bytes=128), Choices(bytes_a_record=24.0)], ids=str
)
def test_recipes_for_a_gpu(dimension: int, records: int, choices: Choices) -> None:
    """Codes that it can search wherever there are enough records and dimensions to have any; else as without one."""
    recipe = choose_recipe(records, dimension, choices.model_copy(update={"for_gpu": True}))
    index = faiss.index_factory(dimension, recipe.factory)
    lists = faiss.downcast_index(faiss.extract_index_ivf(index))
    assert recipe.fits_gpu == (dimension >= 16 and records >= 256)
    if recipe.fits_gpu:
        check_is_searchable(lists)
        assert recipe.code_bytes == lists.code_size
    else:
        assert recipe.factory == choose_recipe(records, dimension, choices).factory


def opened(directory: Path, device: Device | None, **options: int) -> Partition:
    made = collection(DIMENSION, train_at=1000)
    for name, value in options.items():
        setattr(made.index, name, value)
    partition = Partition(directory, made, SLOTS, device)
    partition.verify()
    return partition


def train(partition: Partition) -> None:
    wanted = wanted_build(partition)
    assert wanted is not None
    built = build(partition, train=wanted.train, compact=wanted.compact, choices=wanted.choices)
    partition.swap(built)
    shutil.rmtree(built.directory)


def found(partition: Partition, queries: Floats) -> list[list[str]]:
    return ids_of(partition, partition.search(queries, 10, nprobe=SETTING.nprobe, rerank_factor=SETTING.rerank_factor))


def recall(partition: Partition, queries: Floats) -> float:
    true = ids_of(partition, partition.search(queries, 10, exact=True))
    return float(
        np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found(partition, queries), true, strict=True)])
    )


def test_a_partition_goes_to_a_device_and_comes_back(tmp_path: Path) -> None:
    """It is trained anew for one, lives there, and what it publishes is read with one and without."""
    vectors = clustered(ROWS, DIMENSION)
    queries = vectors[::70] / np.linalg.norm(vectors[::70], axis=1, keepdims=True)
    partition = opened(tmp_path, None)
    fill(partition, vectors[:2000])
    train(partition)
    assert partition.trained is not None
    assert partition.trained.recipe.bits == 4
    partition.publish()
    partition.close()

    stand_in = StandIn()
    partition = opened(tmp_path, stand_in.device)
    assert (partition.state, stand_in.held) == ("trained", 0)
    wanted = wanted_build(partition)
    assert wanted is not None
    assert "GPU" in wanted.why
    train(partition)
    assert stand_in.held == 1
    assert wanted_build(partition) is None
    partition.apply([upsert(f"r{row}", vectors[row], 10_000 + row) for row in range(2000, 4000)])
    partition.apply([delete(f"r{row}", 20_000 + row) for row in range(0, 2000, 2)])
    partition.apply([upsert(f"r{row}", vectors[row] + 0.01, 30_000 + row) for row in range(1, 2000, 4)])
    while partition.tail >= 8:
        partition.fold()
    before = stand_in.searched
    assert recall(partition, queries) >= 0.95
    assert stand_in.searched - before == len(queries)
    train(partition)  # which leaves the dead rows behind
    assert (partition.dead, stand_in.held) == (0, 1)
    answers = found(partition, queries)
    partition.publish()
    partition.close()

    for device in (stand_in.device, None):
        again = opened(tmp_path, device)
        assert not again.rebuilt
        assert found(again, queries) == answers
        assert wanted_build(again) is None
        again.close()
    del partition, again
    assert stand_in.held == 0


def test_four_bits_that_a_collection_asks_for_stay_in_ram(tmp_path: Path) -> None:
    """A GPU cannot search them, and nothing is trained over and over."""
    stand_in = StandIn()
    partition = opened(tmp_path, stand_in.device, bits=4)
    fill(partition, clustered(2000, DIMENSION))
    train(partition)
    assert wanted_build(partition) is None
    assert stand_in.held == 0
    assert recall(partition, clustered(20, DIMENSION)) >= 0.9
    assert stand_in.searched == 0


def test_one_thread_at_a_time_for_all_partitions(tmp_path: Path) -> None:
    """Searches of two partitions, additions to both and the end of indexes take turns: the stand-in fails otherwise."""
    stand_in = StandIn()
    vectors = clustered(2000, DIMENSION)
    partitions = [opened(tmp_path / name, stand_in.device) for name in ("a", "b")]
    for partition in partitions:
        fill(partition, vectors[:1200])
        train(partition)
    stop, failures = threading.Event(), list[BaseException]()

    def search(partition: Partition) -> None:
        try:
            while not stop.is_set():
                partition.search(vectors[:20], 10)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search, args=(partition,)) for partition in partitions]
    for thread in threads:
        thread.start()
    for start in range(1200, 2000, 80):
        for partition in partitions:
            partition.apply([upsert(f"r{row}", vectors[row], 5000 + row) for row in range(start, start + 80)])
            partition.fold()
    partitions[0].swap(build(partitions[0], choices=Choices(for_gpu=True)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(partition.view.trained and partition.view.trained.copy for partition in partitions)


def test_the_benchmark_that_is_for_a_machine_with_a_gpu() -> None:
    """It runs, and finds that a device that is right agrees."""
    vectors = clustered(2000, DIMENSION)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stand_in = StandIn()
    _, ram, device = compare(stand_in.device, vectors[:1900].astype(np.float16), vectors[1900:], seconds=0.0)
    assert stand_in.searched
    assert alike(ram.rows, device.rows) == 1
    assert device.recall >= 0.9


def test_which_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU if there is one, none where none is wanted, an error where one must be and is not."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert find_device("auto") is find_device("cpu") is None
    with pytest.raises(ValueError, match="no GPU"):
        find_device("cuda")


def test_a_shard_that_must_have_a_gpu_does_not_start_without(tmp_path: Path) -> None:
    """It says so at once, in a line."""
    command = ["shard", "--index", "0", "--count", "1", "--log", "localhost:1", "--data", str(tmp_path / "data")]
    ended = subprocess.run(
        [sys.executable, "-m", "vitrail.cli.main", *command],
        env=os.environ | {"VITRAIL_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert "there is no GPU here that faiss can use" in ended.stderr
    assert "Traceback" not in ended.stderr
