"""A partition: what one shard holds of one collection.

Rows are numbered in the order in which they arrived and never change. An upserted record gets a new row and its old
one a tombstone; so does a deleted one. The rows before `folded` are in the trained index, those from there on are
the tail, searched exactly; without a trained index everything is tail.

One thread writes (apply, fold, swap, publish), any number of threads search. They meet in `View`: a search takes
the view of the moment and keeps it, a write ends by replacing it. Nothing that a view refers to changes afterwards,
but for the trained index, which may grow: a view's bitmap ends at its own `folded`, and rows beyond it do not count.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vitrail.shard import manifest
from vitrail.shard.documents import Document, Documents, IdMap
from vitrail.shard.files import AppendFile, all_or_nothing, file_digest, sync_file, write_durably
from vitrail.shard.index import Bits, Flat, Floats, Metric, Recipe, Rows, Trained
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor, Row
from vitrail.v1.types_pb2 import Metric as MetricMessage

METRICS: dict[int, Metric] = {
    MetricMessage.METRIC_COSINE: "cosine",
    MetricMessage.METRIC_INNER_PRODUCT: "inner_product",
    MetricMessage.METRIC_EUCLIDEAN: "euclidean",
}
# Searches of the trained index and additions to it take turns: this many queries, this many rows.
SEARCH_SLICE = 64
FOLD_SLICE = 1024
# A tail shorter than this costs a search less than a fold would.
FOLD_AT = 256
QUIET_SECONDS = 1.0
RETRAIN_GROWTH = 4
# The trained index is written again once it holds this many rows, or this share, more than its file.
REWRITE_ROWS = 50_000
REWRITE_SHARE = 0.25

# Files that a training reads and writes begin with this; those of one that was cut short are removed on opening.
TRAINING = "training-"

State = Literal["exact", "training", "trained"]


@dataclass(frozen=True, slots=True)
class View:
    """A partition at one moment."""

    rows: int
    records: int
    """Rows whose bit is set in `live`."""
    live: Bits
    """One bit a row, the lowest first."""
    folded: int
    """The rows before this one are in `trained`. A multiple of 8, so that bitmaps can be cut there."""
    trained: Trained | None
    all: Flat
    tail: Flat
    documents: Documents


@dataclass(frozen=True, slots=True)
class Found:
    """Scores float32 [q, k] and rows int64 [q, k], best first, row -1 where there are fewer; and how."""

    scores: Floats
    rows: Rows
    view: View
    exact: bool
    nprobe: int


@dataclass(frozen=True, slots=True)
class TrainedFile:
    """A trained index that a training process has written into the partition's directory."""

    name: str
    life: str
    """The partition's when it was trained; in another, rows have other numbers."""
    rows: int
    trained_on: int
    recipe: Recipe


class Outdated(Exception):
    """The partition was reset or dropped while an index was trained for it."""


class Partition:
    """One collection's records in this shard's slots."""

    view: View
    life: str
    """Another one after each reset, when rows are numbered anew; empty once it is closed."""
    _vectors: AppendFile
    _documents: Documents
    _ids: IdMap

    def __init__(self, directory: Path, collection: Collection, slots: tuple[int, int]) -> None:
        """Open what was published there last, or start empty.

        A directory that does not match its manifest, or belongs to other slots, is deleted: `rebuilt` says why.
        """
        self.directory = directory
        self.collection = collection
        self.slots = slots
        self.metric = METRICS[collection.metric]
        self.dimension = collection.dimension
        self.training = False
        self.rebuilt = ""
        try:
            self._open(self._read_manifest())
        except (manifest.Mismatch, OSError) as error:
            self.rebuilt = str(error)
            shutil.rmtree(directory)
            self._open(None)

    # What it is.

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """How vectors are stored: half precision is faithful where they are unit vectors."""
        return np.dtype(np.float16) if self.metric == "cosine" else np.dtype(np.float32)

    @property
    def state(self) -> State:
        if self.view.trained is not None:
            return "trained"
        return "training" if self.training else "exact"

    @property
    def tail(self) -> int:
        return self.view.rows - self.view.folded

    @property
    def recipe(self) -> Recipe | None:
        return self.view.trained.recipe if self.view.trained else None

    @property
    def wants_training(self) -> bool:
        """Whether it has enough records for a first index, or has outgrown the one that it has."""
        threshold = self.collection.train_at
        if self.view.trained is not None:
            threshold = max(threshold, RETRAIN_GROWTH * self.trained_on)
        return not self.training and self.view.records >= threshold

    @property
    def wants_fold(self) -> bool:
        if self.view.trained is None or self.tail < 8:
            return False
        return self.tail >= FOLD_AT or time.monotonic() - self._changed > QUIET_SECONDS

    @property
    def wants_publishing(self) -> bool:
        return self._published != (self.cursor.seq, self.version)

    # Searching, from any thread.

    def search(
        self, queries: Floats, k: int, *, nprobe: int = 0, rerank_factor: float = 0.0, exact: bool = False
    ) -> Found:
        """Find the k best records for each of float32 [q, d]; 0 takes the recipe's own parameter."""
        view = self.view
        if view.trained is None or exact:
            scores, rows = view.all.search(queries, k, view.live)
            return Found(scores, rows, view, exact=True, nprobe=0)
        recipe = view.trained.recipe
        nprobe = min(nprobe or recipe.nprobe, recipe.lists)
        factor = rerank_factor or recipe.rerank_factor
        live = view.live[: view.folded // 8]
        slices = [
            view.trained.search(queries[start : start + SEARCH_SLICE], k, live, view.all, nprobe, factor)
            for start in range(0, len(queries), SEARCH_SLICE)
        ]
        scores, rows = (np.concatenate(parts) for parts in zip(*slices, strict=True))
        if view.rows > view.folded:
            tail_scores, tail_rows = view.tail.search(queries, k, view.live[view.folded // 8 :])
            tail_rows[tail_rows >= 0] += view.folded
            scores, rows = _best(k, (scores, tail_scores), (rows, tail_rows))
        return Found(scores, rows, view, exact=False, nprobe=nprobe)

    # Writing, from one thread.

    def apply(self, rows: Sequence[Row]) -> None:
        """Take rows of the log, no id twice. Taking one again changes nothing that a search could see.

        Raises:
            OSError: The disk is full; nothing was taken.
        """
        upserts = [row for row in rows if not row.deleted]
        ids = [row.id for row in rows]
        replaced = np.array([row for row in self._ids.find(ids) if row >= 0], np.int64)
        start = len(self._documents)
        with all_or_nothing(*self._appended):
            self._vectors.append(self._stored(upserts).tobytes())
            self._documents.append([Document(row.id, row.attributes) for row in upserts])
        self._ids.put([row.id for row in upserts], range(start, start + len(upserts)))
        self._ids.put([row.id for row in rows if row.deleted], [-1] * (len(rows) - len(upserts)))
        live = np.zeros((len(self._documents) + 7) // 8, np.uint8)
        live[: len(self.view.live)] = self.view.live
        _clear(live, replaced)
        _set(live, np.arange(start, len(self._documents)))
        self._show(live, self.view.records - len(replaced) + len(upserts), self.view.folded, self.view.trained)
        self._changed = time.monotonic()

    def checkpoint(self, cursor: Cursor) -> None:
        """Everything up to here has been applied."""
        self.cursor = cursor

    def fold(self) -> None:
        """Move one slice of the tail into the trained index."""
        view = self.view
        if view.trained is None:
            return
        end = min(view.folded + FOLD_SLICE, view.rows // 8 * 8)
        rows = view.folded + np.flatnonzero(_bits(view.live[view.folded // 8 : end // 8])).astype(np.int64)
        if len(rows):
            view.trained.add(self._matrix()[rows].astype(np.float32), rows)
        self._show(view.live, view.records, end, view.trained)

    def swap(self, file: TrainedFile) -> None:
        """Search with another trained index from now on; what it lacks is tail.

        Raises:
            Outdated: It numbers rows that are no more.
            OSError: It cannot be read.
        """
        if file.life != self.life:
            (self.directory / file.name).unlink(missing_ok=True)
            raise Outdated(f"{file.name} was trained before the partition was reset or dropped")
        trained = Trained.load(self.directory / file.name, file.recipe, self.metric)
        self.trained_on = file.trained_on
        self.version = uuid4().hex[:8]
        name = f"main-{self.version}"
        (self.directory / file.name).rename(self.directory / name)
        self._describe(replace(file, name=name))
        self._show(self.view.live, self.view.records, file.rows, trained)

    def publish(self) -> None:
        """Make what was applied up to now what a restart finds."""
        view = self.view
        if view.trained is not None and self._trained_file is not None:
            more = view.folded - self._trained_file.rows
            if more > max(REWRITE_ROWS, REWRITE_SHARE * self._trained_file.rows):
                name = f"main-{uuid4().hex[:8]}"
                view.trained.save(self.directory / name)
                self._describe(TrainedFile(name, self.life, view.folded, self.trained_on, view.trained.recipe))
        for file in self._appended:
            file.sync()
        live_name = f"live-{uuid4().hex[:8]}"
        write_durably(self.directory / live_name, view.live.tobytes())
        vectors, documents, entries = (
            manifest.File(name=file.path.name, size=file.size, sha256=file.digest()) for file in self._appended
        )
        manifest.Manifest(
            collection_uid=self.collection.uid,
            slot_begin=self.slots[0],
            slot_end=self.slots[1],
            dimension=self.dimension,
            metric=self.metric,
            seq=self.cursor.seq,
            mark=self.cursor.mark,
            rows=view.rows,
            vectors=vectors,
            documents=documents,
            entries=entries,
            live=_described(self.directory / live_name),
            trained=self._trained_file,
        ).write(self.directory)
        self._published = (self.cursor.seq, self.version)
        self._remove_all_but(live_name, self._trained_file.file.name if self._trained_file else "")

    def reset(self) -> None:
        """Forget everything; the log will tell it again."""
        self.drop()
        self._open(None)

    def drop(self) -> None:
        """Delete the files. Searches that still hold a view are not disturbed."""
        self.close()
        shutil.rmtree(self.directory)

    def close(self) -> None:
        self.life = ""
        self._vectors.close()
        self._documents.close()

    # Inside.

    @property
    def _appended(self) -> tuple[AppendFile, AppendFile, AppendFile]:
        return self._vectors, self._documents.documents, self._documents.rows

    def _read_manifest(self) -> manifest.Manifest | None:
        published = manifest.read(self.directory)
        if published is None:
            return None
        uid, slots = published.collection_uid, (published.slot_begin, published.slot_end)
        if (uid, slots) != (self.collection.uid, self.slots):
            raise manifest.Mismatch(f"holds slots {slots} of collection {uid}")
        if (published.dimension, published.metric) != (self.dimension, self.metric):
            raise manifest.Mismatch(f"holds {published.metric} vectors of {published.dimension} dimensions")
        return published

    def _open(self, published: manifest.Manifest | None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"{TRAINING}*"):
            leftover.unlink()
        self.cursor = Cursor(collection_uid=self.collection.uid)
        self.life = uuid4().hex
        self.version = ""
        self.trained_on = 0
        self._trained_file: manifest.Trained | None = None
        self._changed = time.monotonic()
        self._published = (0, "")
        trained, folded = None, 0
        if published is None:
            self._vectors = AppendFile(self.directory / "vectors")
            self._documents = Documents(self.directory)
            self._ids = IdMap(self._documents)
            live = np.zeros(0, np.uint8)
        else:
            live = np.frombuffer(manifest.verify(self.directory, published.live).read_bytes(), np.uint8)
            self._vectors = AppendFile(self.directory / "vectors", published.vectors.size)
            self._documents = Documents(self.directory, published.documents.size, published.entries.size)
            self._check_appended(published)
            self._ids = IdMap(self._documents, np.flatnonzero(_bits(live)))
            self.cursor = Cursor(collection_uid=self.collection.uid, seq=published.seq, mark=published.mark)
            if published.trained is not None:
                trained, folded = self._load_trained(published.trained), published.trained.rows
            self._published = (self.cursor.seq, self.version)
        self._show(live, int(_bits(live).sum()), folded, trained)

    def _check_appended(self, published: manifest.Manifest) -> None:
        wanted_files = (published.vectors, published.documents, published.entries)
        for file, wanted in zip(self._appended, wanted_files, strict=True):
            if file.digest() != wanted.sha256:
                raise manifest.Mismatch(f"{file.path} is not the file that was published")

    def _load_trained(self, published: manifest.Trained) -> Trained:
        recipe = Recipe(published.factory, published.lists, published.nprobe, published.rerank_factor)
        path = manifest.verify(self.directory, published.file)
        self.version, self.trained_on, self._trained_file = published.version, published.trained_on, published
        return Trained.load(path, recipe, self.metric)

    def _describe(self, file: TrainedFile) -> None:
        sync_file(self.directory / file.name)
        self._trained_file = manifest.Trained(
            file=_described(self.directory / file.name),
            version=self.version,
            rows=file.rows,
            trained_on=file.trained_on,
            factory=file.recipe.factory,
            lists=file.recipe.lists,
            nprobe=file.recipe.nprobe,
            rerank_factor=file.recipe.rerank_factor,
        )

    def _show(self, live: Bits, records: int, folded: int, trained: Trained | None) -> None:
        matrix = self._matrix()
        self.view = View(
            rows=len(matrix),
            records=records,
            live=live,
            folded=folded,
            trained=trained,
            all=Flat(matrix, self.metric),
            tail=Flat(matrix[folded:], self.metric),
            documents=self._documents,
        )

    def _matrix(self) -> NDArray[np.float16] | NDArray[np.float32]:
        """The vectors of all rows, [rows, d], where they lie in the file."""
        return self._vectors.data().view(self.dtype).reshape(-1, self.dimension)

    def _stored(self, rows: Sequence[Row]) -> NDArray[np.float16] | NDArray[np.float32]:
        """The vectors of rows as they are kept: [n, d] of `dtype`, of length 1 for cosine."""
        half = 2 * self.dimension
        vectors = np.empty((len(rows), self.dimension), np.float32)
        for vector, row in zip(vectors, rows, strict=True):
            vector[:] = np.frombuffer(row.vector, "<f2" if len(row.vector) == half else "<f4")
        if self.metric == "cosine":
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return cast("NDArray[np.float16] | NDArray[np.float32]", vectors.astype(self.dtype))

    def _remove_all_but(self, live: str, trained: str) -> None:
        for path in self.directory.iterdir():
            if path.name.startswith(("live-", "main-")) and path.name not in (live, trained):
                path.unlink()


def _described(path: Path) -> manifest.File:
    return manifest.File(name=path.name, size=path.stat().st_size, sha256=file_digest(path))


def _bits(packed: Bits) -> NDArray[np.uint8]:
    return np.unpackbits(packed, bitorder="little")


def _set(packed: Bits, rows: Rows) -> None:
    np.bitwise_or.at(packed, rows >> 3, (1 << (rows & 7)).astype(np.uint8))


def _clear(packed: Bits, rows: Rows) -> None:
    np.bitwise_and.at(packed, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))


def _best(k: int, scores: tuple[Floats, Floats], rows: tuple[Rows, Rows]) -> tuple[Floats, Rows]:
    """The k best of two answers to the same queries."""
    all_scores, all_rows = np.hstack(scores), np.hstack(rows)
    all_scores[all_rows < 0] = -np.inf
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_rows, order, 1)
