"""Columns: the attributes of a partition's rows once more, laid out so that filters are evaluated on all of them.

There is one column for each name and kind of attribute. It has an entry for each row that has the attribute, in the
order of rows (a list has one for each item), so what a row lacks costs nothing. Each part of a column is a file that
is only appended to and read through a memory map: no record costs RAM. A column keeps a file descriptor for each
part, two or, for strings, four.

One thread writes, any number of threads evaluate filters. Entries of rows that a reader does not ask for may come
and go while it reads; those that it asks for are complete and never change.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vitrail.shard import filters, strings
from vitrail.shard.files import AppendFile, File, Mismatch, all_or_nothing
from vitrail.shard.strings import Mask, Strings
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.types_pb2 import Attributes

Kind = Literal["string", "integer", "float", "boolean", "timestamp", "strings"]
Part = Literal["rows", "values", "heads", "rests", "heap"]
Arrays = dict[Part, NDArray[Any]]
"""What to append to each part of a column."""

KINDS: tuple[Kind, ...] = get_args(Kind)
FIELDS: dict[str, Kind] = {f"{kind}_value": kind for kind in KINDS}
ROWS = np.dtype("<u4")
WORD = np.dtype("<u8")
TEXT_PARTS: dict[Part, np.dtype[Any]] = {"rows": ROWS, "heads": WORD, "rests": strings.REST, "heap": WORD}
PARTS: dict[Kind, dict[Part, np.dtype[Any]]] = {
    "string": TEXT_PARTS,
    "integer": {"rows": ROWS, "values": np.dtype("<i8")},
    "float": {"rows": ROWS, "values": np.dtype("<f8")},
    "boolean": {"rows": ROWS, "values": np.dtype("u1")},
    "timestamp": {"rows": ROWS, "values": np.dtype("<i8")},
    "strings": TEXT_PARTS,
}
NUMBERS: dict[Kind, type[filters.Numbers]] = {
    "integer": filters.Integers,
    "float": filters.Floats,
    "boolean": filters.Booleans,
    "timestamp": filters.Timestamps,
}
PREFIX = "column-"
# Rows that a filter is evaluated on at a time, so that what lies between its steps stays in the processor's cache.
BLOCK = 16_384


class ColumnFile(File):
    """One file as it was published, and what it is a part of."""

    attribute: str
    kind: Kind
    part: Part


class Column:
    """The entries of one attribute of one kind."""

    def __init__(self, attribute: str, kind: Kind, files: dict[Part, AppendFile]) -> None:
        """Over one file for each part of the kind.

        Raises:
            Mismatch: The files do not hold the same number of whole entries.
        """
        self.attribute = attribute
        self.kind = kind
        self.files = files
        counts = {divmod(file.size, PARTS[kind][part].itemsize) for part, file in files.items() if part != "heap"}
        if files.keys() != PARTS[kind].keys() or len(counts) != 1 or counts.pop()[1]:
            raise Mismatch(f"the column of {attribute} is not whole")

    def part(self, part: Part) -> NDArray[Any]:
        """All entries of a part, without a copy."""
        return self.files[part].data().view(PARTS[self.kind][part])

    def strings(self) -> Strings:
        return Strings(self.part("heads"), self.part("rests"), self.part("heap"))

    def entries(self) -> filters.Entries:
        """The column as filters see it, at this moment."""
        rows = self.part("rows")
        if self.kind == "string":
            return filters.TextEntries(rows, self.strings())
        if self.kind == "strings":
            return filters.ListEntries(rows, self.strings())
        return NUMBERS[self.kind](rows, self.part("values"))

    def chosen(self, entries: NDArray[np.int64], heap_end: int) -> Arrays:
        """What to append to another column, whose heap ends there, for it to have these entries too, rows apart."""
        if self.kind in NUMBERS:
            return {"values": self.part("values")[entries]}
        return _text_arrays(strings.copied(self.strings(), entries, heap_end))

    def append(self, arrays: Arrays) -> None:
        """Add entries, of rows after all that have one."""
        for part, array in arrays.items():
            self.files[part].append(array.tobytes())


@dataclass(slots=True)
class Gathered:
    """The values of one attribute in a batch, as messages have them in this field, and their rows."""

    field: str
    rows: list[int]
    values: list[Any]


class Columns:
    """The columns of a partition."""

    _columns: Mapping[str, tuple[Column, ...]]
    """By attribute; replaced, never changed."""

    def __init__(self, directory: Path, published: Sequence[ColumnFile] = (), *, frozen: bool = False) -> None:
        """Open the files that were published, and delete others that a crash left; `frozen` as for `AppendFile`.

        Raises:
            Mismatch: One is missing, too short or ends differently, or they do not make whole columns.
        """
        self._directory = directory
        self._columns = {}
        names = {file.name for file in published}
        for path in () if frozen else directory.glob(f"{PREFIX}*"):
            if path.name not in names:
                path.unlink()
        parts: dict[tuple[str, Kind], dict[Part, AppendFile]] = {}
        with contextlib.ExitStack() as opened:
            for file in published:
                part = AppendFile(directory / file.name, file, frozen=frozen)
                opened.callback(part.close)
                parts.setdefault((file.attribute, file.kind), {})[file.part] = part
            self._show(Column(attribute, kind, files) for (attribute, kind), files in parts.items())
            opened.pop_all()  # they stay open

    # Reading, from any thread.

    def matches(self, filter: Filter, begin: int, end: int) -> Mask:
        """Which of the rows from begin up to end pass a filter: bool [end - begin].

        The rows must have been appended. A comparison with an attribute that no row has is unknown for all.

        Raises:
            ValueError: The filter is not complete, or compares an attribute with what it cannot be compared with.
        """
        columns = self._columns
        condition = filters.compile_filter(filter, lambda name: [one.entries() for one in columns.get(name, ())])
        mask = np.empty(end - begin, np.bool_)
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            mask[start - begin : stop - begin] = condition(start, stop)
        return mask

    # Writing, from one thread.

    def append(self, first_row: int, attributes: Sequence[bytes]) -> None:
        """Take the attributes, each a serialized Attributes, of the rows from `first_row` on.

        Where other files are appended to in the same step, this comes last: nothing here can undo it afterwards.

        Raises:
            OSError: The disk is full; nothing was taken.
        """
        self._write(
            (name, kind, _arrays(kind, gathered.rows, gathered.values, self._heap_end(name, kind)))
            for (name, kind), gathered in _gather(first_row, attributes).items()
        )

    def copy_rows(self, source: "Columns", rows: NDArray[np.int64], first_row: int) -> None:
        """Take rows of other columns, int64 [n] in ascending order, as the rows from `first_row` on.

        Raises:
            OSError: The disk is full; nothing was taken.
        """
        if not len(rows):
            return
        begin, end = int(rows[0]), int(rows[-1]) + 1
        numbers = np.full(end - begin, -1, np.int64)
        numbers[rows - begin] = np.arange(first_row, first_row + len(rows))
        additions: list[tuple[str, Kind, Arrays]] = []
        for column in source._all():
            first, last = column.entries().between(begin, end)
            given = numbers[column.part("rows")[first:last] - ROWS.type(begin)]
            chosen = first + np.flatnonzero(given >= 0)
            if len(chosen):
                base = self._heap_end(column.attribute, column.kind)
                arrays: Arrays = {"rows": given[given >= 0].astype(ROWS), **column.chosen(chosen, base)}
                additions.append((column.attribute, column.kind, arrays))
        self._write(additions)

    def described(self) -> list[ColumnFile]:
        """All files as they are now, for the manifest."""
        return [
            ColumnFile(attribute=column.attribute, kind=column.kind, part=part, **file.described().model_dump())
            for column in self._all()
            for part, file in column.files.items()
        ]

    @property
    def files(self) -> list[AppendFile]:
        """The files of all columns. They stay open: two a column, or four where it holds strings."""
        return [file for column in self._all() for file in column.files.values()]

    def close(self) -> None:
        for file in self.files:
            file.close()

    # Inside.

    def _all(self) -> list[Column]:
        return [column for columns in self._columns.values() for column in columns]

    def _find(self, attribute: str, kind: Kind) -> Column | None:
        return next((column for column in self._columns.get(attribute, ()) if column.kind == kind), None)

    def _heap_end(self, attribute: str, kind: Kind) -> int:
        """Where on a column's heap, in words, the next string goes."""
        column = self._find(attribute, kind)
        return len(column.part("heap")) if column and "heap" in column.files else 0

    def _write(self, additions: Iterable[tuple[str, Kind, Arrays]]) -> None:
        additions = list(additions)
        found = [self._find(attribute, kind) for attribute, kind, _ in additions]
        files = [file for column in found if column for file in column.files.values()]
        created: list[AppendFile] = []
        columns = self._all()
        try:
            with all_or_nothing(*files):
                for column, (attribute, kind, arrays) in zip(found, additions, strict=True):
                    if column is None:
                        column = self._create(attribute, kind, len(columns), created)
                        columns.append(column)
                    column.append(arrays)
        except OSError:
            for file in created:
                file.close()
                file.path.unlink()
            raise
        self._show(columns)

    def _create(self, attribute: str, kind: Kind, number: int, created: list[AppendFile]) -> Column:
        """A new column, its files among those `created`. They are numbered: attributes may differ in case alone."""
        files: dict[Part, AppendFile] = {}
        for part in PARTS[kind]:
            files[part] = AppendFile(self._directory / f"{PREFIX}{number}-{part}")
            created.append(files[part])
        return Column(attribute, kind, files)

    def _show(self, columns: Iterable[Column]) -> None:
        shown: dict[str, tuple[Column, ...]] = {}
        for column in columns:
            shown[column.attribute] = (*shown.get(column.attribute, ()), column)
        self._columns = shown


def _gather(first_row: int, attributes: Sequence[bytes]) -> dict[tuple[str, Kind], Gathered]:
    """The values of a batch by attribute and kind, in the order of rows."""
    gathered: dict[tuple[str, Kind], Gathered] = {}
    latest: dict[str, Gathered] = {}
    for row, data in enumerate(attributes, first_row):
        if not data:
            continue
        fields = Attributes.FromString(data).fields
        for name in fields:  # its items() is written in Python, and twice as slow
            value = fields[name]
            one = latest.get(name)
            # Nearly always it is of the kind that it was before, and asking for that is much the cheaper question.
            if one is None or not value.HasField(one.field):  # type: ignore[arg-type]
                field = value.WhichOneof("kind")
                if field is None:
                    continue
                one = latest[name] = gathered.setdefault((name, FIELDS[field]), Gathered(field, [], []))
            one.rows.append(row)
            one.values.append(getattr(value, one.field))
    return gathered


def _arrays(kind: Kind, rows: list[int], values: list[Any], heap_end: int) -> Arrays:
    """What to append to a column for these values of rows."""
    match kind:
        case "string":
            return {"rows": np.array(rows, ROWS), **_text_arrays(strings.encode(values, heap_end))}
        case "strings":
            return _list_arrays(rows, [message.values for message in values], heap_end)
        case "timestamp":
            values = [filters.microseconds(moment.seconds, moment.nanos) for moment in values]
    return {"rows": np.array(rows, ROWS), "values": np.array(values, PARTS[kind]["values"])}


def _list_arrays(rows: list[int], lists: Sequence[Sequence[str]], heap_end: int) -> Arrays:
    """One entry an item; an empty list has one that equals no string."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    encoded = strings.encode([item for items in lists for item in items or ("",)], heap_end)
    counts = np.maximum(lengths, 1)
    encoded.heads[(np.cumsum(counts) - counts)[lengths == 0]] = strings.NOTHING
    return {"rows": np.repeat(np.array(rows, ROWS), counts), **_text_arrays(encoded)}


def _text_arrays(encoded: Strings) -> Arrays:
    return {"heads": encoded.heads, "rests": encoded.rests, "heap": encoded.heap}
