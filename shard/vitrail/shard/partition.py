"""A partition: what one shard holds of one collection.

An upserted record gets a new row and its old one a tombstone; so does a deleted one. Rows are appended to a `Table`,
folded from its tail into a trained index, and now and then built anew by another process (`building.py`): trained on
what there is now, or compacted, so that dead rows are left behind.

One thread writes (apply, fold, swap, publish), any number of threads search. They meet in `view`: a search takes the
view of the moment and keeps it, a write ends by replacing it.
"""

import contextlib
import math
import random
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np

from vitrail.rpc.digests import digest
from vitrail.rpc.slots import SLOTS
from vitrail.shard import manifest
from vitrail.shard.bitmap import changed, count, rows_of
from vitrail.shard.device import Device
from vitrail.shard.digests import Held
from vitrail.shard.documents import Document, IdMap
from vitrail.shard.files import Mismatch, hash_file, is_damage, sync, verify, write_durably
from vitrail.shard.index import Bits, Floats, Metric, Setting, Trained, to_float32
from vitrail.shard.manifest import TableFiles, TrainedFile
from vitrail.shard.recall import DEFAULT_TARGET, Curve, K, Observed, found_on_grid
from vitrail.shard.table import Table, Vectors
from vitrail.shard.view import FEW, NO_SETTING, Found, View
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.log_pb2 import Cursor, Row
from vitrail.v1.types_pb2 import Metric as MetricMessage

METRICS: dict[int, Metric] = {
    MetricMessage.METRIC_COSINE: "cosine",
    MetricMessage.METRIC_INNER_PRODUCT: "inner_product",
    MetricMessage.METRIC_EUCLIDEAN: "euclidean",
}
# Half precision is faithful to unit vectors of so many dimensions; in fewer, neighbours may lie closer than it tells.
HALF_PRECISION_FROM = 64
# Shorter ones cost a third more a row, longer ones would let searches wait for more than some ten milliseconds.
FOLD_SLICE = 512
# A tail shorter than this costs a search less than a fold would.
FOLD_AT = 512
QUIET_SECONDS = 1.0
# The trained index is written again once it holds this many rows, or this share, more than its file.
REWRITE_ROWS, REWRITE_SHARE = 50_000, 0.25
# One query of callers is kept in so many seconds, to measure recall on.
SAMPLE_SECONDS = 0.1
# Lists grow with the share of records that pass a filter to this power. To that of -1/4 recall was about that without
# a filter, for shares of 10% to 0.1% at 50,000 and 500,000 rows.
FILTERED_POWER = -1 / 3

BUILDING = "building-"
"""Directories in which other processes build; those of one that was cut short are removed on opening."""

State = Literal["exact", "training", "trained"]

# What it may fail to do.
APPLYING, PUBLISHING, BUILDING_INDEX = "applying", "publishing", "building"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A partition at the moment at which something is built of it."""

    view: View
    life: str
    table: TableFiles
    rows: int
    """Only those before this one are built in; a multiple of 8."""
    trained: TrainedFile | None
    seq: int
    """Everything up to here has been applied."""


@dataclass(frozen=True, slots=True)
class Built:
    """What was built of a snapshot, in a directory of the partition's."""

    snapshot: Snapshot
    directory: Path
    table: TableFiles | None
    """Where it was compacted."""
    trained: TrainedFile | None
    """Its file lies in `directory`; its rows are those of the new table where there is one."""


class Outdated(Exception):
    """The partition was reset or dropped while something was built of it."""


class Partition:
    """One collection's records in this shard's slots."""

    view: View
    life: str
    """Another one after each reset, when rows are numbered anew; empty once it is closed."""
    held: Held | None
    """What it held at its last checkpoint; None before the first one since it was opened."""
    _table: Table
    _ids: IdMap | None

    def __init__(
        self, directory: Path, collection: Collection, slots: tuple[int, int], device: Device | None = None
    ) -> None:
        """Open what was published there last, or start empty.

        A directory that does not match its manifest, or belongs to other slots, is deleted: `rebuilt` says why.

        Raises:
            OSError: It cannot be opened now, as with too many open files; nothing was deleted.
        """
        self.directory = directory
        self.collection = collection
        self.slots = slots
        self.device = device
        """Where copies of its index are searched."""
        self.metric = METRICS[collection.metric]
        self.dimension = collection.dimension
        self.building = ""
        """What is being built: "training", "compacting", or nothing."""
        self.troubles: dict[str, str] = {}
        """Why it is behind, where it is: by what it failed to do, until it has done it."""
        self.clean_wanted = 0
        """Up to which `seq` its files are to be clean, as `clean_seq` has it."""
        self.rebuilt = ""
        self._lent = ""
        """The file of the index that another process may be reading."""
        self._sampled: deque[Floats] = deque(maxlen=4)
        self._sample_at = 0.0
        try:
            self._open(self._read_manifest())
        except (Mismatch, OSError) as error:
            if not is_damage(error):
                raise
            self.rebuilt = str(error)
            shutil.rmtree(directory)
            self._open(None)

    # What it is.

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """How vectors are stored."""
        half = self.metric == "cosine" and self.dimension >= HALF_PRECISION_FROM
        return np.dtype(np.float16) if half else np.dtype(np.float32)

    @property
    def share(self) -> float:
        """What it holds of all records of the collection."""
        return (self.slots[1] - self.slots[0]) / SLOTS

    @property
    def trouble(self) -> str:
        """Why it is behind, or nothing."""
        return "; ".join(f"{what}: {why}" for what, why in list(self.troubles.items()))

    @property
    def state(self) -> State:
        if self.view.trained is not None:
            return "trained"
        return "training" if self.building == "training" else "exact"

    @property
    def tail(self) -> int:
        return self.view.rows - self.view.folded

    @property
    def dead(self) -> int:
        return self.view.rows - self.view.records

    @property
    def is_clean(self) -> bool:
        """Whether its files hold the records that there are now, and nothing else."""
        return not self.dead and not self._table.has_remains

    @property
    def wants_cleaning(self) -> bool:
        """Whether somebody waits for what was deleted to leave its files, and it was told of it."""
        return self.clean_seq < self.clean_wanted <= self.cursor.seq

    @property
    def trained(self) -> TrainedFile | None:
        """How its trained index was made."""
        return self._trained

    @property
    def curve(self) -> Curve | None:
        """Which setting finds how much, as far as it is known now."""
        return self._observed.curve if self._observed else None

    @property
    def target(self) -> float:
        """The recall that a search is to have unless it asks for another."""
        options = self.collection.index
        return options.target_recall if options.HasField("target_recall") else DEFAULT_TARGET

    @property
    def disk_bytes(self) -> int:
        return self._table.bytes() + (self._trained.file.size if self._trained else 0)

    def setting(self, nprobe: int = 0, rerank_factor: float = 0.0, target: float = 0.0) -> Setting:
        """How a search is made: as it asks, else as the collection does, else as the curve says; 0 asks for nothing."""
        if self._observed is None:
            return NO_SETTING
        options = self.collection.index
        chosen = self._observed.point(target or self.target).setting
        if not target:
            nprobe, rerank_factor = nprobe or options.nprobe, rerank_factor or options.rerank_factor
        nprobe = min(nprobe or chosen.nprobe, self._observed.curve.nprobes[-1])
        return Setting(nprobe, rerank_factor or chosen.rerank_factor)

    def expected_recall(self, found: Found) -> float:
        """What is known of searches as this one; 1 where exact, 0 where nothing is known."""
        if found.exact or self._observed is None:
            return float(found.exact)
        return self._observed.recall(found.setting)

    # Searching, from any thread.

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        nprobe: int = 0,
        rerank_factor: float = 0.0,
        target: float = 0.0,
        exact: bool = False,
        filter: Filter | None = None,
        view: View | None = None,
    ) -> Found:
        """Find the k best records for each of float32 [q, d]; parameters that are 0 are chosen.

        Raises:
            ValueError: The filter cannot be evaluated.
        """
        view, observed = view or self.view, self._observed
        passing = None if filter is None else view.passing(filter)
        if exact or view.trained is None or observed is None or observed.is_hopeless(self.target):
            return view.exact(queries, k, passing)
        setting = self.setting(nprobe, rerank_factor, target)
        if passing is not None:
            return self._filtered(view, observed.curve, queries, k, setting, passing)
        if time.monotonic() >= self._sample_at:
            self._sample_at = time.monotonic() + SAMPLE_SECONDS
            self._sampled.append(random.choice(queries).copy())
        return view.approximate(queries, k, setting)

    def _filtered(self, view: View, curve: Curve, queries: Floats, k: int, setting: Setting, passing: Bits) -> Found:
        """Probe the more lists the fewer records pass, or compare with each of them where that is cheaper."""
        matching = count(passing)
        if matching:
            share = matching / view.records
            lists = min(curve.nprobes[-1], math.ceil(setting.nprobe * share**FILTERED_POWER))
            setting = Setting(lists, setting.rerank_factor)
            if matching > FEW or matching * curve.rerank_seconds > curve.seconds(setting, k):
                return view.approximate(queries, k, setting, passing)
        return view.exact(queries, k, passing)

    def warm(self) -> None:
        """Make the vectors quick to reach; beside everything else, from any thread."""
        self._table.warm()

    def observe(self) -> bool:
        """Compare what one sampled query finds with exact search. Returns whether there was one."""
        view, observed = self.view, self._observed
        if view.trained is None or observed is None or not self._sampled:
            return False
        query = self._sampled.popleft()
        scores, rows = view.all.search(query[np.newaxis], K, view.live[: view.folded // 8])
        found = found_on_grid(view.main(), view.all, observed.curve.nprobes, query, scores[rows >= 0], self.share)
        observed.add(found)
        return True

    # Writing, from one thread.

    def apply(self, rows: Sequence[Row]) -> None:
        """Take rows of the log, no id twice. Taking one again changes nothing that a search could see.

        Raises:
            OSError: The disk is full; nothing was taken.
        """
        upserts = [row for row in rows if not row.deleted]
        ids = self._known_ids()
        replaced = np.array([row for row in ids.find([row.id for row in rows]) if row >= 0], np.int64)
        start = len(self._table)
        vectors = [row.vector for row in upserts]
        documents = [
            Document(row.id, row.attributes, digest(row.id.encode(), row.seq, vector, row.attributes))
            for row, vector in zip(upserts, vectors, strict=True)
        ]
        self._table.append(self._stored(vectors), documents)
        ids.put([row.id for row in upserts], range(start, start + len(upserts)))
        ids.put([row.id for row in rows if row.deleted], [-1] * (len(rows) - len(upserts)))
        live = changed(self.view.live, len(self._table), replaced, np.arange(start, len(self._table)))
        records = self.view.records - len(replaced) + len(upserts)
        self._show(live, records, self.view.folded, self.view.trained)
        np.maximum.at(self._written, [row.slot for row in rows], [row.seq for row in rows])
        self.changes += len(rows)
        self.reached = max((row.seq for row in rows), default=self.reached)
        self._changed = time.monotonic()
        self.troubles.pop(APPLYING, None)

    def checkpoint(self, cursor: Cursor) -> None:
        """Everything up to here has been applied."""
        self.cursor = cursor
        self.reached = self.head = cursor.seq
        self.held = Held(cursor, self.life, self._table.documents, self.view.live, self._written.copy())

    @property
    def wants_fold(self) -> bool:
        if self.view.trained is None or self.tail < 8:
            return False
        return self.tail >= FOLD_AT or time.monotonic() - self._changed > QUIET_SECONDS

    def fold(self) -> None:
        """Move one slice of the tail into the trained index."""
        view = self.view
        if view.trained is None:
            return
        end = min(view.folded + FOLD_SLICE, view.rows // 8 * 8)
        rows = view.folded + rows_of(view.live[view.folded // 8 : end // 8])
        if len(rows):
            view.trained.add(to_float32(view.table.vectors[rows]), rows)
        self._show(view.live, view.records, end, view.trained)

    def snapshot(self) -> Snapshot:
        """What something can be built of in another process, while this one goes on writing."""
        self._lent = self._trained.file.name if self._trained else ""
        view, rows = self.view, self.view.rows // 8 * 8
        return Snapshot(view, self.life, self._table.described(), rows, self._trained, self.cursor.seq)

    def swap(self, built: Built) -> None:
        """Search what was built from now on; what it lacks is tail.

        Raises:
            Outdated: It numbers rows that are no more.
            OSError: It cannot be read, or the disk is full; the partition is as it was.
        """
        before = built.snapshot
        if before.life != self.life:
            raise Outdated("the partition was reset or dropped meanwhile")
        try:
            self._swap(built)
        except (Mismatch, OSError):
            self._tidy_up()
            raise
        self._lent = ""
        self.troubles.pop(BUILDING_INDEX, None)

    def _swap(self, built: Built) -> None:
        name = uuid4().hex[:8]
        trained, described = self.view.trained, self._trained
        if built.trained is not None:
            described = built.trained
            trained = Trained.load(built.directory / described.file.name, described.recipe, self.metric, self.device)
            (built.directory / described.file.name).rename(self.directory / f"main-{name}")
            described = described.model_copy(
                update={"version": name, "file": described.file.model_copy(update={"name": f"main-{name}"})}
            )
        folded = described.rows if described else 0
        if built.table is None:
            self._show(self.view.live, self.view.records, folded, trained)
        else:
            self._move(built, self.directory / f"table-{name}", folded, trained)
            self._clean = built.snapshot.seq  # of what was replaced or deleted since, the new table may have rows
        if described is not None and (self._trained is None or described.curve != self._trained.curve):
            self.changes = 0
            self._observed = Observed(described.curve)
        self._trained = described

    def publish(self) -> None:
        """Make what was applied up to now what a restart finds.

        Raises:
            OSError: The disk is full; what was published before still is.
        """
        if not self.life:
            return
        try:
            self._publish()
        except OSError:
            self._tidy_up()
            raise
        self.troubles.pop(PUBLISHING, None)

    def _publish(self) -> None:
        view = self.view
        if view.trained is not None and self._trained is not None:
            more = view.folded - self._trained.rows
            if more > max(REWRITE_ROWS, REWRITE_SHARE * self._trained.rows):
                path = self.directory / f"main-{uuid4().hex[:8]}"
                view.trained.save(path)
                self._trained = self._trained.model_copy(update={"file": hash_file(path), "rows": view.folded})
            sync(self.directory / self._trained.file.name)
        self._table.sync()
        sync(self._table.directory)
        live = self.directory / f"live-{uuid4().hex[:8]}"
        write_durably(live, view.live.tobytes())
        if self.is_clean:
            self._clean = self.cursor.seq
        published = manifest.Manifest(
            collection_uid=self.collection.uid,
            slot_begin=self.slots[0],
            slot_end=self.slots[1],
            dimension=self.dimension,
            metric=self.metric,
            seq=self.cursor.seq,
            mark=self.cursor.mark,
            table=self._table.described(),
            live=hash_file(live),
            trained=self._trained,
            clean_seq=self._clean,
        )
        published.write(self.directory)
        self._published = self._state()
        self._tidy(published, BUILDING, *filter(None, [self._lent]))
        self.clean_seq = self._clean

    @property
    def wants_publishing(self) -> bool:
        return bool(self.life) and self._published != self._state()

    def reset(self) -> bool:
        """Forget everything; the log will tell it again. Returns whether it was open to be reset."""
        if not self.life:
            return False
        self.drop()
        self._open(None)
        return True

    def drop(self) -> None:
        """Delete the files. Searches that still hold a view are not disturbed."""
        self.close()
        (self.directory / manifest.NAME).unlink(missing_ok=True)  # first: what a crash leaves is then no partition
        sync(self.directory)
        shutil.rmtree(self.directory)

    def close(self) -> None:
        self.life = ""
        self._table.close()

    # Opening.

    def _read_manifest(self) -> manifest.Manifest | None:
        published = manifest.read(self.directory)
        if published is None or not published.seq:  # the log would not know what an unfinished build was not told
            return None
        self.check(published)
        return published

    def check(self, published: manifest.Manifest) -> None:
        """Refuse a manifest that is another partition's.

        Raises:
            Mismatch: It is.
        """
        uid, slots = published.collection_uid, (published.slot_begin, published.slot_end)
        if (uid, slots) != (self.collection.uid, self.slots):
            raise Mismatch(f"holds slots {slots} of collection {uid}")
        if (published.dimension, published.metric) != (self.dimension, self.metric):
            raise Mismatch(f"holds {published.metric} vectors of {published.dimension} dimensions")

    def _open(self, published: manifest.Manifest | None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._tidy(published)
        self.cursor = Cursor(collection_uid=self.collection.uid)
        self.reached = self.head = published.seq if published else 0
        """The last row that was applied, of a pass that need not be complete; and the end of the log as last heard."""
        self.life = uuid4().hex  # after the cursor: who sees this life must not take the place of the last one
        self.unverified = published
        """What was published whose vectors nobody has compared with their hashes yet."""
        self.clean_seq = self._clean = published.clean_seq if published else 0
        """Of records that were replaced or deleted up to here nothing is left in the files; `_clean` once published."""
        self.held = None
        # What was published may hold rows from beyond its place in the log, but those come again.
        self._written = np.full(SLOTS, published.seq if published else 0, np.int64)
        self._ids = None
        self._trained = published.trained if published else None
        self._observed = Observed(self._trained.curve) if self._trained else None
        self.changes = 0
        """Rows of the log that were applied since the index was trained, or opened."""
        self._changed = time.monotonic()
        if published is None:
            self._table = Table(self.directory / f"table-{uuid4().hex[:8]}", self.dimension, self.dtype)
            self._published = (0, "", self._table.directory.name)
            self._show(np.zeros(0, np.uint8), 0, 0, None)
            return
        live = np.frombuffer(verify(self.directory / published.live.name, published.live).read_bytes(), np.uint8)
        trained = None
        if self._trained is not None:
            path = verify(self.directory / self._trained.file.name, self._trained.file)
            trained = Trained.load(path, self._trained.recipe, self.metric, self.device)
        self._table = Table(self.directory / published.table.directory, self.dimension, self.dtype, published.table)
        self.cursor = Cursor(collection_uid=self.collection.uid, seq=published.seq, mark=published.mark)
        self._published = self._state()
        self._show(live, count(live), self._trained.rows if self._trained else 0, trained)

    def verify(self) -> None:
        """Compare the vectors that were opened with their hashes; beside everything else, from any thread.

        Raises:
            Mismatch: They are damaged.
            OSError: They cannot be read.
        """
        published, table = self.unverified, self._table
        if published is not None:
            table.verify_vectors(published.table)
        self.unverified = None

    # Inside.

    def _known_ids(self) -> IdMap:
        """Which row holds which id; made when it is first needed, since searches do not."""
        if self._ids is None:
            self._ids = IdMap(self._table.documents, rows_of(self.view.live))
        return self._ids

    def _move(self, built: Built, directory: Path, folded: int, trained: Trained | None) -> None:
        """Go over to a compacted table: bring what was written since, and forget what was deleted since."""
        assert built.table is not None
        before, old = built.snapshot, self.view
        (built.directory / built.table.directory).rename(directory)
        table = Table(directory, self.dimension, self.dtype, built.table)
        kept = rows_of(before.view.live[: before.rows // 8])
        since = rows_of(old.live)
        since = since[since >= before.rows]
        try:
            table.copy(self._table, since)
        except OSError:
            table.close()
            raise
        is_live = np.unpackbits(old.live, bitorder="little").astype(bool)
        everyone = np.arange(len(table))
        dead = np.flatnonzero(~is_live[kept])
        live = changed(np.zeros(0, np.uint8), len(table), dead, np.delete(everyone, dead))
        replaced, self._table, self._ids = self._table, table, None
        self._show(live, old.records, folded, trained)
        if self.held is not None:  # else its files would stay until the next checkpoint
            is_now = self.held.live is old.live
            self.held = replace(self.held, documents=table.documents, live=live) if is_now else None
        replaced.close()

    def _state(self) -> tuple[int, str, str]:
        """What differs from what was published when there is something to publish."""
        return self.cursor.seq, self._trained.version if self._trained else "", self._table.directory.name

    def _show(self, live: Bits, records: int, folded: int, trained: Trained | None) -> None:
        self.view = View(self._table, self.metric, live, records, folded, trained)

    def _stored(self, given: Sequence[bytes]) -> Vectors:
        """The vectors of rows as they are kept: [n, d] of `dtype`, of length 1 for cosine."""
        vectors = self._read(given)
        if (
            self.metric == "cosine" and not vectors.dtype == self.dtype == np.float16
        ):  # what is stored so is of length 1
            vectors = vectors.astype(np.float32)
            lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
            vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, np.newaxis]
        stored: Vectors = vectors.astype(self.dtype, copy=False)
        return stored

    def _read(self, given: Sequence[bytes]) -> Vectors:
        """Vectors as the log has them, [n, d]: in half precision where all are."""
        sizes = {len(vector) for vector in given}
        half = 2 * self.dimension
        if len(sizes) > 1:
            read = (np.frombuffer(vector, "<f2" if len(vector) == half else "<f4") for vector in given)
            return np.stack([vector.astype(np.float32) for vector in read])
        kind = "<f2" if sizes == {half} else "<f4"
        return np.frombuffer(b"".join(given), kind).reshape(-1, self.dimension)

    def _tidy_up(self) -> None:
        """Remove what a step left behind that failed: on a full disk it takes the room that the next one needs."""
        used = [self._table.directory.name, self._lent, self._trained.file.name if self._trained else ""]
        with contextlib.suppress(Mismatch, OSError):
            self._tidy(manifest.read(self.directory), BUILDING, *filter(None, used))

    def _tidy(self, published: manifest.Manifest | None, *kept: str) -> None:
        """Remove what a manifest does not name, but for names that begin as those that are kept."""
        named = {manifest.NAME}
        if published is not None:
            named |= {published.live.name, published.table.directory}
            named |= {published.trained.file.name} if published.trained else set()
        for path in self.directory.iterdir():
            if path.name not in named and not path.name.startswith(kept):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
