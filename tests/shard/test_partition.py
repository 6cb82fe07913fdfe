import errno
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.shard.rows import best_ids, clustered, collection, delete, scores, upsert
from vitrail.shard.building import Job, run
from vitrail.shard.files import Mismatch
from vitrail.shard.index import ID_BYTES, Choices, Floats, Metric, Trained
from vitrail.shard.partition import BUILDING, Built, Outdated, Partition
from vitrail.shard.view import Found
from vitrail.shard.wanted import wanted_build
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.types_pb2 import Attributes, Value

SLOTS = (0, 1024)


def build(partition: Partition, *, train: bool = True, compact: bool = False, choices: Choices | None = None) -> Built:
    """Build as the other process does, without the process."""
    snapshot = partition.snapshot()
    directory = partition.directory / f"{BUILDING}{uuid4().hex[:8]}"
    directory.mkdir()
    (directory / "live").write_bytes(snapshot.view.live[: snapshot.rows // 8].tobytes())
    result = run(
        Job(
            partition=partition.directory,
            table=snapshot.table,
            trained=snapshot.trained,
            dimension=partition.dimension,
            metric=partition.metric,
            dtype=partition.dtype.str,
            rows=snapshot.rows,
            target=partition.target,
            share=partition.share,
            train=train,
            compact=compact,
            choices=choices or Choices(),
            directory=directory,
        )
    )
    return Built(snapshot, directory, result.table, result.trained)


def ids_of(partition: Partition, found: Found) -> list[list[str]]:
    documents = partition.view.table.documents
    return [documents.ids([row for row in rows if row >= 0]) for rows in found.rows.tolist()]


def fill(partition: Partition, vectors: Floats, first_seq: int = 1) -> None:
    partition.apply([upsert(f"r{row}", vector, first_seq + row) for row, vector in enumerate(vectors)])
    partition.checkpoint(Cursor(collection_uid=1, seq=first_seq + len(vectors) - 1, mark=7))


class PartitionMachine(RuleBasedStateMachine):
    """A partition under writes, folds, trainings and restarts in any order agrees with a dictionary."""

    names = st.sampled_from([f"r{n}" for n in range(150)])

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        # What is tested here outlives a process, not a power cut, and a busy disk takes a second for each fsync.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda _: None)
        self.random = np.random.default_rng(5)
        self.records: dict[str, Floats] = {}
        self.published: dict[str, Floats] = {}
        self.seq = 0

    @initialize(metric=st.sampled_from(["cosine", "inner_product", "euclidean"]), dimension=st.sampled_from([4, 24]))
    def start(self, metric: Metric, dimension: int) -> None:
        self.metric, self.dimension = metric, dimension
        self.partition = self.opened()

    def opened(self) -> Partition:
        return Partition(self.directory / "1", collection(self.dimension, self.metric, train_at=39), SLOTS)

    @rule(ids=st.lists(names, min_size=1, max_size=60, unique=True))
    def upsert(self, ids: list[str]) -> None:
        vectors = self.random.normal(size=(len(ids), self.dimension)).astype(np.float32)
        self.partition.apply([upsert(*pair, self.next_seq()) for pair in zip(ids, vectors, strict=True)])
        self.records.update(zip(ids, vectors, strict=True))
        self.checkpoint()

    @rule(ids=st.lists(names, min_size=1, max_size=30, unique=True))
    def delete(self, ids: list[str]) -> None:
        self.partition.apply([delete(name, self.next_seq()) for name in ids])
        for name in ids:
            self.records.pop(name, None)
        self.checkpoint()

    @rule()
    def fold(self) -> None:
        self.partition.fold()

    @rule()
    def train_and_swap(self) -> None:
        if self.partition.view.records >= 39 + 7:  # the last rows may lie beyond the multiple of 8
            self.partition.swap(build(self.partition))

    @rule()
    def compact(self) -> None:
        self.partition.swap(build(self.partition, train=False, compact=True))
        assert self.partition.dead == 0

    @rule()
    def compact_and_train_meanwhile_written(self) -> None:
        """What is written while another process builds is neither lost nor found twice."""
        train = self.partition.view.records >= 39 + 7
        built = build(self.partition, train=train, compact=True)
        self.upsert([f"r{n}" for n in range(0, 150, 7)])
        self.delete([f"r{n}" for n in range(3, 150, 14)])
        self.partition.swap(built)

    @rule()
    def publish(self) -> None:
        self.partition.publish()
        self.published = dict(self.records)

    @rule()
    def crash_and_follow_again(self) -> None:
        """What is found again is what was published; the log then brings the rest."""
        self.partition.close()
        self.partition = self.opened()
        assert self.partition.rebuilt == ""
        assert self.found_ids() == set(self.published)
        missing = [upsert(name, vector, self.seq) for name, vector in self.records.items()]
        gone = [delete(name, self.seq) for name in self.published.keys() - self.records.keys()]
        self.partition.apply([*missing, *gone])
        self.checkpoint()

    @invariant()
    def agrees_with_a_dictionary(self) -> None:
        assert self.partition.view.records == len(self.records)
        query = self.random.normal(size=(1, self.dimension)).astype(np.float32)
        if self.metric == "cosine":
            query /= np.linalg.norm(query)
        self.are_the_best(query, self.partition.search(query, 5, exact=True))
        # With every list probed and everything reranked, the trained index finds the same.
        self.are_the_best(query, self.partition.search(query, 5, nprobe=65_536, rerank_factor=1000))

    def are_the_best(self, query: Floats, found: Found) -> None:
        """Compare by score: half precision may swap two records that are nearly as good."""
        (ids,), best = ids_of(self.partition, found), best_ids(query[0], self.records, self.metric, 5)
        assert len(set(ids)) == len(ids) == len(best)
        if best:
            got, wanted = (
                scores(query, np.stack([self.records[name] for name in names]), self.metric)[0] for names in (ids, best)
            )
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-3)
            np.testing.assert_allclose(found.scores[0, : len(ids)], wanted, rtol=1e-3, atol=2e-3)

    def found_ids(self) -> set[str]:
        query = np.ones((1, self.dimension), np.float32)
        return set(ids_of(self.partition, self.partition.search(query, 200, exact=True))[0])

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def checkpoint(self) -> None:
        self.partition.checkpoint(Cursor(collection_uid=1, seq=self.seq, mark=self.seq))

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.directory)


PartitionMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestPartitionMachine = PartitionMachine.TestCase


def test_a_partition_is_exact_until_trained_and_says_so(tmp_path: Path) -> None:
    """States follow each other as a user sees them, and the tail empties into the trained index."""
    partition = Partition(tmp_path, collection(24, train_at=200), SLOTS)
    fill(partition, clustered(199, 24))
    assert (partition.state, wanted_build(partition), partition.tail) == ("exact", None, 199)
    fill(partition, clustered(300, 24), first_seq=200)
    wanted = wanted_build(partition)
    assert wanted is not None
    assert (wanted.train, wanted.compact) == (True, False)
    partition.building = "training"
    assert partition.state == "training"
    partition.swap(build(partition))
    partition.building = ""
    assert (partition.state, wanted_build(partition)) == ("trained", None)
    assert partition.view.records == 300
    assert partition.tail < 8
    assert partition.search(clustered(1, 24), 3).setting.nprobe > 0


def test_a_trained_partition_trains_again_once_it_has_outgrown_its_training(tmp_path: Path) -> None:
    """Four times the records that it was trained on, and it wants another index."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    fill(partition, clustered(104, 24))
    partition.swap(build(partition))
    fill(partition, clustered(4 * 104 - 1, 24))
    assert wanted_build(partition) is None
    fill(partition, clustered(4 * 104, 24))
    wanted = wanted_build(partition)
    assert wanted is not None
    assert wanted.train


def test_replacing_and_deleting_take_records_out_of_results(tmp_path: Path) -> None:
    """An id that is written again is found once, where it is now; a deleted one is not found."""
    partition = Partition(tmp_path, collection(4), SLOTS)
    x, y = np.eye(4, dtype=np.float32)[:2]
    partition.apply([upsert("a", x, 1), upsert("b", x, 2)])
    partition.apply([upsert("a", y, 3), delete("b", 4), delete("never", 5)])
    found = partition.search(x[np.newaxis], 10)
    assert ids_of(partition, found) == [["a"]]
    assert found.scores[0, 0] == pytest.approx(0.0)


def test_a_restarted_partition_is_trained_at_once(tmp_path: Path) -> None:
    """It comes back from its files with its index, its place in the log and its tail, without training again."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    vectors = clustered(300, 24)
    fill(partition, vectors[:204])
    partition.swap(build(partition))
    fill(partition, vectors)
    partition.publish()
    assert partition.trained is not None
    version = partition.trained.version
    partition.close()
    again = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    assert again.trained is not None
    assert (again.state, again.trained.version) == ("trained", version)
    assert (again.cursor.seq, again.cursor.mark) == (300, 7)
    assert again.view.records == 300
    assert not again.wants_publishing
    query = vectors[:1] / np.linalg.norm(vectors[0])
    assert ids_of(again, again.search(query, 1)) == [["r0"]]


def the(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the vectors": lambda directory: flip(the(directory, "table-*/vectors")),
    "a bit of the documents": lambda directory: flip(the(directory, "table-*/documents")),
    "a bit of the entries": lambda directory: flip(the(directory, "table-*/entries")),
    "a bit of the index": lambda directory: flip(the(directory, "main-*")),
    "a truncated index": lambda directory: os.truncate(the(directory, "main-*"), 1000),
    "no bitmap": lambda directory: the(directory, "live-*").unlink(),
    "no documents": lambda directory: os.truncate(the(directory, "table-*/documents"), 0),
    "no table": lambda directory: shutil.rmtree(the(directory, "table-*")),
    "a garbled manifest": lambda directory: (directory / "manifest.json").write_text("{"),
    "a manifest of a newer format, which says more": lambda directory: (directory / "manifest.json").write_text(
        (directory / "manifest.json").read_text().replace('"format": 3', '"format": 4, "more": {}')
    ),
    "a manifest of another format": lambda directory: (directory / "manifest.json").write_text(
        (directory / "manifest.json").read_text().replace('"format": 3', '"format": 999')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_is_thrown_away(tmp_path: Path, damage: str) -> None:
    """Whatever is not as it was published is deleted, and the log is followed from the beginning."""
    partition = Partition(tmp_path / "p", collection(24, train_at=100), SLOTS)
    fill(partition, clustered(208, 24))
    partition.swap(build(partition))
    partition.publish()
    partition.close()
    DAMAGES[damage](tmp_path / "p")
    again = Partition(tmp_path / "p", collection(24, train_at=100), SLOTS)
    assert again.rebuilt
    assert (again.view.records, again.cursor.seq, again.state) == (0, 0, "exact")
    fill(again, clustered(20, 24))
    assert again.view.records == 20


@pytest.mark.parametrize(
    "other", [(collection(24, uid=2), SLOTS), (collection(8), SLOTS), (collection(24), (0, 512))], ids=str
)
def test_a_partition_of_something_else_is_thrown_away(tmp_path: Path, other: tuple) -> None:  # type: ignore[type-arg]
    """Files of another collection, dimension or slot range are never served."""
    partition = Partition(tmp_path / "p", collection(24), SLOTS)
    fill(partition, clustered(20, 24))
    partition.publish()
    partition.close()
    again = Partition(tmp_path / "p", *other)
    assert again.rebuilt
    assert again.view.records == 0


def test_a_partition_that_cannot_be_opened_now_is_kept(tmp_path: Path) -> None:
    """With too few files left to open, whichever lacks one: an error, nothing deleted, nothing left open."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    fill(partition, clustered(208, 24))
    attributes = Attributes(fields={"price": Value(integer_value=3)}).SerializeToString()
    partition.apply([upsert("r0", clustered(1, 24)[0], 209, attributes)])
    partition.swap(build(partition))
    partition.publish()
    partition.close()
    descriptors = Path("/proc/self/fd")
    before = {path.name for path in descriptors.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors, again = list[int | None](), None
    while again is None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 + len(errors), limits[1]))
        try:
            again = Partition(tmp_path, collection(24, train_at=100), SLOTS)
        except OSError as error:
            errors.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert again or {path.name for path in descriptors.iterdir()} == before
    assert set(errors) == {errno.EMFILE}
    assert len(errors) > 3
    assert (again.view.records, again.state, again.rebuilt) == (208, "trained", "")


def test_searches_never_see_a_write_half_done(tmp_path: Path) -> None:
    """While rows are replaced, folded and swapped, every search finds each record exactly once."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    vectors = clustered(120, 24)
    fill(partition, vectors)
    partition.swap(build(partition))
    stop, wrong = threading.Event(), list[str]()

    def search() -> None:
        query = np.ones((1, 24), np.float32)
        while not stop.is_set():
            for exact in (True, False):
                (found,) = ids_of(partition, partition.search(query, 200, nprobe=65_536, exact=exact))
                if len(found) != 120 or len(set(found)) != 120:
                    wrong.append(f"{len(found)} hits of {len(set(found))} records")

    searching = threading.Thread(target=search)
    searching.start()
    for round_ in range(60):
        fill(partition, vectors[round_ % 2 :: 2], first_seq=1000 * (round_ + 1)) if round_ % 3 else fill(
            partition, vectors, first_seq=1000 * (round_ + 1)
        )
        partition.fold()
        if round_ % 20 == 19:
            partition.swap(build(partition))
    stop.set()
    searching.join()
    assert not wrong


def test_a_full_disk_leaves_a_partition_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When documents cannot be written, the vectors that were are forgotten, and the same rows can be taken later."""
    partition = Partition(tmp_path, collection(24), SLOTS)
    fill(partition, clustered(10, 24))
    write = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if len(data) < 100:  # ids and entries, not vectors
            raise OSError(28, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        partition.apply([upsert("new", clustered(1, 24)[0], 11)])
    monkeypatch.undo()
    assert partition.view.records == 10
    partition.apply([upsert("new", clustered(1, 24)[0], 11)])
    assert partition.view.records == 11
    assert ids_of(partition, partition.search(clustered(1, 24), 11))[0].count("new") == 1


def test_a_trained_index_that_grew_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart does not have to fold again what was folded long before the last publication."""
    monkeypatch.setattr("vitrail.shard.partition.REWRITE_ROWS", 50)
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    vectors = clustered(400, 24)
    fill(partition, vectors[:104])
    partition.swap(build(partition))
    partition.apply([upsert(f"r{row}", vector, row + 1) for row, vector in enumerate(vectors) if row >= 104])
    partition.checkpoint(Cursor(collection_uid=1, seq=400, mark=7))
    while partition.tail:
        partition.fold()
    partition.publish()
    partition.close()
    again = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    assert again.tail == 0
    assert isinstance(again.view.trained, Trained)
    assert again.trained is not None
    assert again.trained.trained_on == 104


def test_an_index_trained_before_a_reset_is_thrown_away(tmp_path: Path) -> None:
    """After a reset rows are numbered anew, and an index that knows the old numbers must never be searched."""
    partition = Partition(tmp_path / "p", collection(24, train_at=100), SLOTS)
    fill(partition, clustered(208, 24))
    before = build(partition)
    partition.reset()
    fill(partition, clustered(16, 24))
    with pytest.raises(Outdated):
        partition.swap(before)
    assert partition.state == "exact"
    assert len(ids_of(partition, partition.search(clustered(1, 24), 20))[0]) == 16


def test_an_index_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """A file that faiss refuses is an error of its own, and the partition goes on as it was."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    fill(partition, clustered(208, 24))
    built = build(partition)
    (built.directory / "main").write_bytes(b"")
    with pytest.raises(Mismatch, match="cannot be read"):
        partition.swap(built)
    assert (partition.state, partition.trained) == ("exact", None)


def bytes_of(directory: Path, *needles: bytes) -> list[bytes]:
    """Those of some byte strings that lie in the files of a directory."""
    content = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return [needle for needle in needles if needle in content]


def text(value: str) -> bytes:
    return Attributes(fields={"text": Value(string_value=value)}).SerializeToString()


def test_what_was_deleted_leaves_the_files_at_compaction(tmp_path: Path) -> None:
    """Vector, id and attributes of what was deleted or replaced; `clean_seq` tells when, and up to where."""
    partition = Partition(tmp_path, collection(8, "inner_product"), SLOTS)
    vectors = clustered(20, 8)
    rows = [upsert(f"record-{n}", vector, n + 1, text(f"attribute-{n}")) for n, vector in enumerate(vectors)]
    partition.apply(rows)
    partition.checkpoint(Cursor(collection_uid=1, seq=20, mark=1))
    partition.publish()
    assert partition.clean_seq == 20
    partition.apply([delete("record-3", 21), upsert("record-4", vectors[0], 22, text("another"))])
    partition.checkpoint(Cursor(collection_uid=1, seq=22, mark=2))
    partition.publish()
    assert (partition.clean_seq, wanted_build(partition)) == (20, None)
    gone = [b"record-3", b"attribute-3", vectors[3].tobytes(), b"attribute-4", vectors[4].tobytes()]
    assert bytes_of(tmp_path, *gone) == gone
    partition.clean_wanted = 22
    wanted = wanted_build(partition)
    assert wanted is not None
    built = build(partition, train=wanted.train, compact=wanted.compact)
    partition.apply([delete("record-5", 23)])
    partition.checkpoint(Cursor(collection_uid=1, seq=23, mark=3))
    partition.swap(built)
    assert partition.clean_seq == 20  # the files of before are still there
    partition.publish()
    shutil.rmtree(built.directory)
    assert partition.clean_seq == 22
    assert bytes_of(tmp_path, *gone, b"record-5", b"record-6") == [b"record-5", b"record-6"]
    assert (partition.wants_cleaning, wanted_build(partition)) == (False, None)
    partition.close()
    again = Partition(tmp_path, collection(8, "inner_product"), SLOTS)
    assert (again.clean_seq, again.view.records) == (22, 18)
    again.clean_wanted = 24
    assert not again.wants_cleaning  # it was not told of that yet


def test_the_codes_of_what_was_deleted_leave_the_index(tmp_path: Path) -> None:
    """A compaction writes the trained index anew, too: over the rows that are left."""
    partition = Partition(tmp_path, collection(24, train_at=100), SLOTS)
    fill(partition, clustered(208, 24))
    partition.swap(build(partition))
    partition.publish()
    (before,) = tmp_path.glob("main-*")
    partition.apply([delete("r7", 209)])
    partition.checkpoint(Cursor(collection_uid=1, seq=209, mark=8))
    partition.swap(build(partition, train=False, compact=True))
    partition.publish()
    assert partition.clean_seq == 209
    assert not before.exists()
    trained = partition.view.trained
    assert trained is not None
    assert trained.bytes == 207 // 8 * 8 * (trained.recipe.code_bytes + ID_BYTES)


def test_what_a_full_disk_left_is_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were written and given up lie beyond the end of a file until others are written over them."""
    partition = Partition(tmp_path, collection(24), SLOTS)
    fill(partition, clustered(10, 24))
    write = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if len(data) < 50:  # ids and entries, not vectors
            raise OSError(28, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        partition.apply([upsert("new", clustered(1, 24)[0], 11)])
    monkeypatch.undo()
    partition.publish()
    assert (partition.is_clean, partition.clean_seq) == (False, 0)
    partition.apply([upsert("new", clustered(1, 24)[0], 11)])
    assert partition.is_clean


def test_an_unfinished_build_is_not_opened_again(tmp_path: Path) -> None:
    """The log would take what it holds for nothing, and never tell it what of that was deleted meanwhile."""
    partition = Partition(tmp_path, collection(24), SLOTS)
    partition.apply([upsert("r0", clustered(1, 24)[0], 1)])
    partition.publish()
    partition.close()
    again = Partition(tmp_path, collection(24), SLOTS)
    assert (again.view.records, again.rebuilt) == (0, "")
