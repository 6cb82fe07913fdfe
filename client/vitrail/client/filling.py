"""Filling a version: rounds over its pending records, until one fills none.

What a record's vector is made of may change while it is made: each is filled only as the record that was read, by its
`seq`, and what was written meanwhile is pending again for the next round.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from vitrail.client import operations, responses
from vitrail.client.calls import FILL, Operation, send
from vitrail.client.models import FillReport, ItemError, Record, StoredRecord
from vitrail.rpc.errors import InvalidArgument, NotFound
from vitrail.v1 import record_pb2

Page = tuple[int, list[ItemError], str]
"""How many of a page were filled, what is wrong with the others, and the token of the next one."""


def fill(name: str, folder: str | os.PathLike[str] | None) -> Operation[FillReport]:
    """See `Client.fill`."""
    if folder is None:
        return _rounds(partial(_from_kept, name))
    if not Path(folder).is_dir():
        raise InvalidArgument(f"{folder} is not a folder", field="folder")
    return _rounds(partial(_from_folder, name, Path(folder)))


def _rounds(page: Callable[[str], Operation[Page]]) -> Operation[FillReport]:
    total = 0
    while True:
        filled, errors, token, more = 0, list[ItemError](), "", True
        while more:
            count, wrong, token = yield from page(token)
            filled, more = filled + count, bool(token)
            errors += wrong
        if not filled:
            return FillReport(total, tuple(errors))
        total += filled


def _from_kept(name: str, token: str) -> Operation[Page]:
    response = yield from send(FILL, record_pb2.FillRecordsRequest(collection=name, page_token=token))
    errors = [responses.item_error(error, 0) for error in response.errors]
    return response.filled, errors, response.next_page_token


def _from_folder(name: str, folder: Path, token: str) -> Operation[Page]:
    waiting, token = yield from operations.list_page(name, token, (), pending=True)
    errors: list[ItemError] = []
    result = yield from operations.upsert_records(name, _images(folder, waiting, errors), None)
    errors += [ItemError(0, error.id, error.code, error.field, error.message) for error in result.errors]
    return len(waiting) - len(errors), errors, token


def _images(folder: Path, waiting: list[StoredRecord], errors: list[ItemError]) -> Iterator[Record]:
    """The files of some records, read as they are asked for."""
    for record in waiting:
        path = PurePosixPath(record.id)
        # Ids are anyone's: none may lead out of the folder.
        inside = not path.is_absolute() and ".." not in path.parts and (folder / path).is_file()
        if inside:
            yield Record(record.id, image=folder / path, fills=record.seq)
        else:
            errors.append(ItemError(0, record.id, NotFound.code, "image", f"there is no such file in {folder}"))
