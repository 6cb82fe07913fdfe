"""A crash at every step that changes files: what is found again is what was published, and the log brings the rest."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shard.rows import collection, delete, scores, upsert
from tests.shard.test_partition import build, ids_of
from vitrail.shard.index import Floats, Metric
from vitrail.shard.manifest import NAME
from vitrail.shard.partition import Built, Partition
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Filter
from vitrail.v1.log_pb2 import Cursor, Row
from vitrail.v1.types_pb2 import Attributes, Value

SLOTS = (0, 1024)
DIMENSION = 16
FEW_HITS, ALL_HITS = 5, 1000
EQUAL = ComparisonOperator.COMPARISON_OPERATOR_EQUAL
EVEN = Filter(comparison=Comparison(attribute="even", operator=EQUAL, value=Value(boolean_value=True)))

Image = dict[str, bytes]
"""What is on disk, by path in the partition's directory; directories end with a slash and hold nothing."""
Records = dict[str, Row]


class Disk:
    """Stands in front of what changes files, and keeps an image of a directory as a crash before it would leave it.

    There are two kinds of crashes. When the process is killed, all that it has done is there, a write perhaps in half.
    When the power fails, only what was synced is certain: of each file its content, of each directory its names.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.killed: dict[tuple[object, ...], tuple[str, Image]] = {}
        self.unpowered: dict[tuple[object, ...], tuple[str, Image]] = {}
        self.steps = 0
        self.before_replacing: Callable[[Path], None] = lambda _: None
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._tokens: dict[int, int] = {}
        self._numbers = itertools.count()
        self._directories: set[int] = set()
        self._sync, self._pwrite = os.fsync, os.pwrite
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "ftruncate"):
            monkeypatch.setattr(os, name, self._stepping(name, getattr(os, name)))
        monkeypatch.setattr(os, "scandir", _manifest_last)
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(os, "pwrite", self._torn_pwrite)

    def _stepping(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.keep(name)
            if name == "replace":
                self.before_replacing(Path(args[0]))
            gone = args[1] if name == "replace" else args[0] if name in ("unlink", "rmdir") else None
            if gone is not None:
                directory = kwargs.get("dir_fd")
                with contextlib.suppress(FileNotFoundError):
                    self._tokens.pop(os.stat(gone, dir_fd=directory).st_ino, None)  # the inode may be used again
            return real(*args, **kwargs)

        return step

    def _fsync(self, file: int) -> None:
        self.keep("fsync")
        path = Path(f"/proc/self/fd/{file}").readlink()
        token = self._token(path)
        if path.is_dir():
            self._names[token] = {child.name: self._token(child) for child in path.iterdir()}
        else:
            self._contents[token] = path.read_bytes()

    def _torn_pwrite(self, file: int, data: memoryview, offset: int) -> int:
        self._pwrite(file, data[: len(data) // 2], offset)
        self.keep("the second half of a write")
        return self._pwrite(file, data, offset)

    def keep(self, step: str) -> None:
        self.steps += 1
        label = f"{self.steps}, before {step}"
        for images, image in ((self.killed, dict(self._present())), (self.unpowered, dict(self._synced()))):
            images.setdefault(tuple(sorted(image.items())), (label, image))

    def _present(self) -> Iterator[tuple[str, bytes]]:
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            yield (f"{name}/", b"") if path.is_dir() else (name, path.read_bytes())

    def _synced(self) -> Iterator[tuple[str, bytes]]:
        def walk(prefix: str, token: int) -> Iterator[tuple[str, bytes]]:
            for name, child in self._names.get(token, {}).items():
                if child in self._directories:
                    yield f"{prefix}{name}/", b""
                    yield from walk(f"{prefix}{name}/", child)
                else:
                    yield f"{prefix}{name}", self._contents.get(child, b"")

        if self.root.exists():
            yield from walk("", self._token(self.root))

    def _token(self, path: Path) -> int:
        """A number of its own for each file and directory that there ever was, unlike that of its inode."""
        inode = path.stat().st_ino
        if inode not in self._tokens:
            self._tokens[inode] = next(self._numbers)
            if path.is_dir():
                self._directories.add(self._tokens[inode])
        return self._tokens[inode]


@contextlib.contextmanager
def _manifest_last(path: str | int = ".", scan: Callable[..., Any] = os.scandir) -> Iterator[Iterator[Any]]:
    """In the order in which deleting one by one does the most harm."""
    with scan(path) as entries:
        yield iter(sorted(entries, key=lambda entry: (entry.name == NAME, entry.name)))


class World:
    """A partition, the log, and what was published when."""

    def __init__(self, directory: Path, metric: Metric) -> None:
        self.collection = collection(DIMENSION, metric, train_at=39)
        self.metric = metric
        self.directory = directory
        self.random = np.random.default_rng(3)
        self.log: dict[str, Row] = {}
        self.published: dict[str, Records] = {}
        self.seq = 0
        self.partition = self.open(directory)

    def open(self, directory: Path) -> Partition:
        return Partition(directory, self.collection, SLOTS)

    def upsert(self, numbers: Iterable[int], *, checkpoint: bool = True) -> None:
        rows = []
        for number in numbers:
            fields = {"even": Value(boolean_value=self.seq % 2 == 0)}
            if self.seq > 100:  # columns that begin later
                fields |= {"text": Value(string_value=f"number {number}"), "n": Value(integer_value=number)}
            vector = self.random.normal(size=DIMENSION).astype(np.float32)
            rows.append(upsert(f"r{number}", vector, self.next_seq(), Attributes(fields=fields).SerializeToString()))
        self.apply(rows, checkpoint)

    def delete(self, numbers: Iterable[int]) -> None:
        self.apply([delete(f"r{number}", self.next_seq()) for number in numbers])

    def apply(self, rows: list[Row], checkpoint: bool = True) -> None:
        self.log |= {row.id: row for row in rows}
        self.partition.apply(rows)
        if checkpoint:
            self.checkpoint()

    def checkpoint(self) -> None:
        self.partition.checkpoint(Cursor(collection_uid=1, seq=self.seq, mark=self.seq))

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    @property
    def records(self) -> Records:
        return {name: row for name, row in self.log.items() if not row.deleted}

    def note(self, replacing: Path) -> None:
        """A manifest is about to be replaced: this is what it stands for."""
        self.published[json.loads(replacing.read_text())["live"]["name"]] = self.records

    def swap(self, built: Built) -> None:
        self.partition.swap(built)
        shutil.rmtree(built.directory)


def live(world: World) -> None:
    """All that a partition goes through."""
    partition = world.partition
    world.upsert(range(60))
    partition.publish()
    world.upsert(range(50, 110), checkpoint=False)
    partition.publish()  # in the middle of a pass: what is there goes beyond the checkpoint
    world.checkpoint()
    partition.publish()
    built = build(partition)
    world.upsert(range(0, 20, 2))
    world.delete(range(1, 20, 4))
    world.swap(built)
    partition.publish()
    world.upsert(range(110, 160))
    while partition.tail >= 8:
        partition.fold()
    partition.publish()  # writes the trained index again
    world.delete(range(20, 80))
    partition.publish()
    built = build(partition, train=False, compact=True)
    world.upsert(range(150, 170))
    world.delete(range(80, 90))
    partition.fold()
    partition.publish()
    world.swap(built)
    partition.publish()
    world.upsert(range(90, 130))
    world.swap(build(partition, train=True, compact=True))
    partition.publish()
    partition.reset()
    partition.apply(sorted(world.log.values(), key=lambda row: row.seq))
    world.checkpoint()
    partition.publish()


def agrees(partition: Partition, records: Records, metric: Metric) -> None:
    """A partition holds exactly these records, and finds them whichever way it searches."""
    vectors = {name: np.frombuffer(row.vector, np.float32) for name, row in records.items()}
    assert partition.view.records == len(records)
    query = np.full((1, DIMENSION), 0.25, np.float32)
    for found in (
        partition.search(query, ALL_HITS, exact=True),
        partition.search(query, ALL_HITS, nprobe=1000, rerank_factor=1000),
        partition.search(query, FEW_HITS, nprobe=1000, rerank_factor=1000),
    ):
        (ids,) = ids_of(partition, found)
        assert len(ids) == len(set(ids)) == min(found.rows.shape[1], len(records))
        assert set(ids) <= set(records)
        if ids:
            stacked: Floats = np.stack([vectors[name] for name in ids])
            every = scores(query, np.stack(list(vectors.values())), metric)[0]
            np.testing.assert_allclose(found.scores[0, : len(ids)], scores(query, stacked, metric)[0], rtol=1e-3)
            np.testing.assert_allclose(found.scores[0, : len(ids)], -np.sort(-every)[: len(ids)], rtol=1e-3)
    (found_even,) = ids_of(partition, partition.search(query, ALL_HITS, filter=EVEN, exact=True))
    even = {name for name, row in records.items() if Attributes.FromString(row.attributes).fields["even"].boolean_value}
    assert set(found_even) == even
    rows = partition.search(query, ALL_HITS, exact=True).rows[0]
    documents = partition.view.table.documents
    attributes = documents.attributes(rows[rows >= 0])
    assert attributes == [records[name].attributes for name in documents.ids(rows[rows >= 0])]


def test_a_crash_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed or without power before any step, or in the middle of a write: it opens as it was published last."""
    monkeypatch.setattr("vitrail.shard.files.MIN_CAPACITY", 1 << 12)
    monkeypatch.setattr("vitrail.shard.files.CHUNK", 1 << 12)
    monkeypatch.setattr("vitrail.shard.partition.REWRITE_ROWS", 16)
    monkeypatch.setattr("vitrail.shard.partition.REWRITE_SHARE", 0.0)
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path / "p", patch)
        world = World(tmp_path / "p", "euclidean")
        disk.before_replacing = lambda path: world.note(path) if path.name == f"{NAME}.tmp" else None
        live(world)
        world.partition.close()
        disk.keep("nothing")
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is tested from here on needs no waiting
    agrees(world.open(world.directory), world.records, world.metric)
    assert len(world.published) == 10
    for kind, images in (("killed", disk.killed), ("without power", disk.unpowered)):
        seen: set[str] = set()
        for number, (step, image) in enumerate(images.values()):
            manifest = json.loads(image[NAME]) if NAME in image else None
            seen.add(manifest["live"]["name"] if manifest else "")
            copy = tmp_path / f"{kind}-{number}"
            restore(image, copy)
            try:
                comes_back(world, copy, world.published[manifest["live"]["name"]] if manifest else {})
            except (AssertionError, OSError, ValueError) as error:
                raise AssertionError(f"{kind} at step {step}: {error}") from error
            shutil.rmtree(copy)
        assert seen == {"", *world.published}


def comes_back(world: World, directory: Path, expected: Records) -> None:
    partition = world.open(directory)
    assert partition.rebuilt == ""
    partition.verify()
    agrees(partition, expected, world.metric)
    missing = [row for row in world.log.values() if row.seq > partition.cursor.seq]
    if missing:
        partition.apply(sorted(missing, key=lambda row: row.seq))
    while partition.view.trained is not None and partition.tail >= 8:
        partition.fold()
    agrees(partition, world.records, world.metric)
    partition.close()


def restore(image: Image, directory: Path) -> None:
    directory.mkdir()
    for name in sorted(image):
        path = directory / name
        path.mkdir(exist_ok=True, parents=True) if name.endswith("/") else path.write_bytes(image[name])
