"""What is relevant to which query, where labels do not say it: a CSV file with the columns `query` and `relevant`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.client import InvalidArgument
from vitrail.training.measures import Ints
from vitrail.training.photos import Photo

COLUMNS = ("query", "relevant")


class Pairs(NamedTuple):
    """Ids of what is relevant, by the id of the query; a line a pair."""

    path: Path
    relevant: Mapping[str, Sequence[str]]
    lines: Mapping[str, int]
    """Where each id stands first."""

    def check(self, ids: set[str]) -> None:
        """See that there is all that is named.

        Raises:
            InvalidArgument: Names the line.
        """
        for id, line in self.lines.items():
            if id not in ids:
                raise InvalidArgument(f"{self.path}:{line}: there is no {id!r}", field="pairs")


def read_pairs(path: Path) -> Pairs:
    """Read a file of pairs.

    Raises:
        InvalidArgument: It cannot be used; says in which line.
    """
    relevant: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise InvalidArgument(f"{path} has no column {missing[0]!r}", field="pairs")
            for row in rows:
                query, wanted = ((row[column] or "").strip() for column in COLUMNS)
                if not query or not wanted:
                    raise InvalidArgument(f"{path}:{rows.line_num}: a pair is two ids", field="pairs")
                relevant.setdefault(query, []).append(wanted)
                for id in (query, wanted):
                    lines.setdefault(id, rows.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", field="pairs") from error
    if not relevant:
        raise InvalidArgument(f"{path} has no pairs", field="pairs")
    return Pairs(path, relevant, lines)


def of_pairs(pairs: Pairs, queries: Sequence[Photo], gallery: Sequence[Photo]) -> list[Ints]:
    """For each query the places in the gallery of what is relevant."""
    places = {photo.id: place for place, photo in enumerate(gallery)}
    return [
        np.unique([places[id] for id in pairs.relevant.get(photo.id, ()) if id in places]).astype(np.int64)
        for photo in queries
    ]
