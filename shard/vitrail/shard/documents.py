"""Documents: the id and the attributes of each row, on disk; and which row holds an id now.

`documents` is the ids and attributes one after the other, `entries` one fixed entry a row that says where. Both are
read through memory maps, so a row costs RAM only for its entry in `IdMap`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from vitrail.shard.files import AppendFile, File
from vitrail.shard.index import Rows

ENTRY = np.dtype(
    [("hash", "<u8"), ("offset", "<u8"), ("id_bytes", "<u4"), ("attribute_bytes", "<u4"), ("digest", "<u8")]
)
GONE = -1


class Document(NamedTuple):
    """What a row is besides its vector; `attributes` is a serialized Attributes, `digest` that of the whole record."""

    id: str
    attributes: bytes
    digest: int


class Documents:
    """The documents of all rows, in the order of rows."""

    def __init__(
        self, directory: Path, documents: File | None = None, entries: File | None = None, *, frozen: bool = False
    ) -> None:
        """Start empty, or open what was published; as `AppendFile`."""
        self._documents = AppendFile(directory / "documents", documents, frozen=frozen)
        try:
            self._entries = AppendFile(directory / "entries", entries, frozen=frozen)
        except BaseException:
            self._documents.close()
            raise
        self.files = (self._documents, self._entries)

    def __len__(self) -> int:
        return self._entries.size // ENTRY.itemsize

    def append(self, documents: Sequence[Document]) -> None:
        """Give the next rows their documents."""
        entries: list[tuple[int, int, int, int, int]] = []
        pieces: list[bytes] = []
        offset = self._documents.size
        for document in documents:
            id_bytes = document.id.encode()
            pieces += (id_bytes, document.attributes)
            sizes = (len(id_bytes), len(document.attributes))
            entries.append((hash_id(document.id), offset, *sizes, document.digest))
            offset += len(id_bytes) + len(document.attributes)
        self._documents.append(b"".join(pieces))
        self._entries.append(np.array(entries, ENTRY).tobytes())

    def copy(self, source: "Documents", rows: Rows) -> None:
        """Give the next rows the documents of rows of another."""
        entries = source.entries()[rows]
        lengths = entries["id_bytes"].astype(np.uint64) + entries["attribute_bytes"]
        data, ends = source._documents.data(), entries["offset"] + lengths
        pieces = [data[start:end].data for start, end in zip(entries["offset"].tolist(), ends.tolist(), strict=True)]
        entries["offset"] = self._documents.size + np.cumsum(lengths) - lengths
        self._documents.append(b"".join(pieces))
        self._entries.append(entries.tobytes())

    def entries(self) -> NDArray[np.void]:
        """One entry a row, of dtype ENTRY, without a copy."""
        return self._entries.data().view(ENTRY)

    def ids(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The ids of rows."""
        entries, data = self.entries(), memoryview(self._documents.data())
        starts = entries["offset"][rows]
        ends = starts + entries["id_bytes"][rows]
        # Where they lie is looked up for all at once: 0.4 us an id, not 1.2.
        return [str(data[start:end], "utf-8") for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def attributes(self, rows: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """The attributes of rows, each a serialized Attributes."""
        entries, data = self.entries(), memoryview(self._documents.data())
        starts = entries["offset"][rows] + entries["id_bytes"][rows]
        ends = starts + entries["attribute_bytes"][rows]
        return [bytes(data[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def close(self) -> None:
        for file in self.files:
            file.close()


class IdMap:
    """Which row holds an id now, at 12 bytes an id: a sorted array, and a dictionary of what changed since.

    Ids are known by a 64-bit hash; the few that share one are kept by name, so that no id is ever taken for
    another.
    """

    MERGE_AT = 65_536

    def __init__(self, documents: Documents, live: NDArray[np.intp] | None = None) -> None:
        """Over the documents of a partition, of which `live` rows hold ids."""
        self._documents = documents
        self._hashes = np.zeros(0, np.uint64)
        self._rows = np.zeros(0, np.uint32)
        self._recent: dict[int, int] = {}
        self._collided: dict[str, int] = {}
        if live is not None and len(live):
            self._load(live)

    def find(self, ids: Sequence[str]) -> list[int]:
        """The row of each id, or -1."""
        hashes = np.fromiter(map(hash_id, ids), np.uint64, len(ids))
        found = self._lookup(hashes)
        names = iter(self._documents.ids([row for row in found if row != GONE]))
        rows = []
        for id, row in zip(ids, found, strict=True):
            matches = row != GONE and next(names) == id
            rows.append(self._collided.get(id, row if matches else GONE))
        return rows

    def put(self, ids: Sequence[str], rows: Sequence[int]) -> None:
        """Say that each id, known or new, is now held by a row; -1 forgets it."""
        hashes = np.fromiter(map(hash_id, ids), np.uint64, len(ids))
        holders = self._lookup(hashes)
        names = iter(self._documents.ids([row for row in holders if row != GONE]))
        for id, hash, holder, row in zip(ids, hashes.tolist(), holders, rows, strict=True):
            taken_by_another = holder != GONE and next(names) != id
            if taken_by_another or id in self._collided:
                self._collided[id] = row
            else:
                self._recent[hash] = row
        if len(self._recent) > max(self.MERGE_AT, len(self._rows) // 8):
            self._merge()

    def _load(self, rows: NDArray[np.intp]) -> None:
        """Take rows that were written before; only hashes that meet twice need their ids read."""
        hashes = self._documents.entries()["hash"][rows]
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], rows[order].astype(np.uint32)
        twice = np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1
        for row, id in zip(self._rows[twice].tolist(), self._documents.ids(self._rows[twice].tolist()), strict=True):
            self._collided[id] = row
        self._hashes, self._rows = np.delete(self._hashes, twice), np.delete(self._rows, twice)

    def _lookup(self, hashes: NDArray[np.uint64]) -> list[int]:
        if not len(self._hashes):
            return [self._recent.get(hash, GONE) for hash in hashes.tolist()]
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        sorted_rows = np.where(self._hashes[places] == hashes, self._rows[places].astype(np.int64), GONE)
        return [self._recent.get(hash, row) for hash, row in zip(hashes.tolist(), sorted_rows.tolist(), strict=True)]

    def _merge(self) -> None:
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        rows = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        kept = ~np.isin(self._hashes, recent)
        hashes = np.concatenate([self._hashes[kept], recent[rows != GONE]])
        all_rows = np.concatenate([self._rows[kept], rows[rows != GONE].astype(np.uint32)])
        order = np.argsort(hashes)
        self._hashes, self._rows, self._recent = hashes[order], all_rows[order], {}


def hash_id(id: str) -> int:
    """xxh64 of the id's UTF-8 bytes."""
    return xxhash.xxh64_intdigest(id.encode())
