"""The rows of a partition under one numbering: vectors, documents and columns, in append-only files.

Rows are numbered in the order in which they arrive and never change. Dropping the dead ones means a new table, in
a directory of its own, in which the others have new numbers.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.shard.columns import Columns
from vitrail.shard.documents import Document, Documents
from vitrail.shard.files import AppendFile, all_or_nothing, available_memory, verify
from vitrail.shard.index import Rows
from vitrail.shard.manifest import TableFiles
from vitrail.shard.passing import Passing

Vectors = NDArray[np.float16] | NDArray[np.float32]
COPY_ROWS = 4096


class Table:
    """Rows in a directory. One thread appends, any number of threads read the rows that were there before."""

    def __init__(
        self,
        directory: Path,
        dimension: int,
        dtype: np.dtype[Any],
        published: TableFiles | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        """Start empty, or open what was published; `frozen` as for `AppendFile`.

        All but the vectors is compared with its hashes; those are many bytes, and `verify_vectors` is for them.

        Raises:
            Mismatch: Files are missing or damaged.
            OSError: They cannot be opened now; none is left open.
        """
        self.directory = directory
        self._dimension = dimension
        self._dtype = dtype
        directory.mkdir(parents=True, exist_ok=True)
        if published is not None and not frozen:
            for file in (published.documents, published.entries, *published.columns):
                verify(directory / file.name, file)
        with contextlib.ExitStack() as opened:
            self._vectors = AppendFile(directory / "vectors", published and published.vectors, frozen=frozen)
            opened.callback(self._vectors.close)
            documents = (published.documents, published.entries) if published else ()
            self.documents = Documents(directory, *documents, frozen=frozen)
            opened.callback(self.documents.close)
            self.columns = Columns(directory, published.columns if published else (), frozen=frozen)
            opened.pop_all()  # they stay open
        self.passing = Passing(self.columns.matches)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def vectors(self) -> Vectors:
        """The vectors of all rows, [rows, d], where they lie in the file."""
        found: Vectors = self._vectors.data().view(self._dtype).reshape(-1, self._dimension)
        return found

    def append(self, vectors: Vectors, documents: Sequence[Document]) -> None:
        """Add rows: [n, d] of the table's dtype, and n documents.

        Raises:
            OSError: The disk is full; the table is as it was.
        """
        with all_or_nothing(self._vectors, *self.documents.files):
            self._vectors.append(np.ascontiguousarray(vectors).data)
            first = len(self.documents)
            self.documents.append(documents)
            self.columns.append(first, [document.attributes for document in documents])

    def copy(self, source: "Table", rows: Rows) -> None:
        """Add rows of another table.

        Raises:
            OSError: The disk is full; whole slices may have been added.
        """
        for start in range(0, len(rows), COPY_ROWS):
            part = rows[start : start + COPY_ROWS]
            with all_or_nothing(self._vectors, *self.documents.files):
                self._vectors.append(source.vectors[part].data)
                first = len(self.documents)
                self.documents.copy(source.documents, part)
                self.columns.copy_rows(source.columns, part, first)

    @property
    def has_remains(self) -> bool:
        """Whether bytes lie in its files that belong to no row."""
        return any(file.has_remains for file in self._files())

    def warm(self) -> None:
        """Map all vectors, where they fit into half of the memory that is free for them."""
        if self._vectors.size < available_memory() / 2:
            self._vectors.warm()

    def verify_vectors(self, published: TableFiles) -> None:
        """Read all vectors that were published, and compare them with their hashes.

        Raises:
            Mismatch: They are damaged.
        """
        verify(self.directory / published.vectors.name, published.vectors)

    def described(self) -> TableFiles:
        """The table as it is now, for a manifest."""
        documents, entries = (file.described() for file in self.documents.files)
        return TableFiles(
            directory=self.directory.name,
            rows=len(self),
            vectors=self._vectors.described(),
            documents=documents,
            entries=entries,
            columns=tuple(self.columns.described()),
        )

    def sync(self) -> None:
        for file in self._files():
            file.sync()

    def bytes(self) -> int:
        return sum(file.size for file in self._files())

    def close(self) -> None:
        self._vectors.close()
        self.documents.close()
        self.columns.close()

    def _files(self) -> tuple[AppendFile, ...]:
        return (self._vectors, *self.documents.files, *self.columns.files)
