"""A file into a collection, some rows at a time."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitrail.client.batches import batches
from vitrail.client.calls import (
    CREATE_COLLECTION,
    DELETE_COLLECTION,
    GET_COLLECTION,
    UPDATE_COLLECTION,
    UPSERT,
    Operation,
    send,
)
from vitrail.client.models import ImportReport, ItemError
from vitrail.client.parquet.file import File
from vitrail.client.parquet.rows import Row
from vitrail.client.progress import bar
from vitrail.client.responses import item_error
from vitrail.rpc.errors import EmbeddingSpaceMismatch, InvalidArgument, NotFound
from vitrail.v1.collection_pb2 import (
    Collection,
    CreateCollectionRequest,
    DeleteCollectionRequest,
    GetCollectionRequest,
    UpdateCollectionRequest,
)
from vitrail.v1.record_pb2 import UpsertRecordsRequest, UpsertRecordsResponse
from vitrail.v1.types_pb2 import VectorArray

ROWS_PER_CALL = 2000
LISTED_ERRORS = 1000


def import_(path: Path, name: str | None, progress: bool) -> Operation[ImportReport]:
    """Write the rows of a file as records.

    Raises:
        InvalidArgument: It is no file of records, or is damaged. Unless that shows further in, nothing was written.
        EmbeddingSpaceMismatch: Its vectors are of another space than the collection's. Nothing was written.
        NotFound: There is no such collection, and the file does not say how to make it.
    """
    started = time.monotonic()
    file = File(path)
    with bar("importing", file.rows, progress) as show:
        name = name or (file.definition.name if file.definition else "")
        collection = yield from _target(file, name)
        tally = Tally()
        rows = tally.without_errors(file.read(collection.dimension))
        for batch in batches(rows, _size, max_items=ROWS_PER_CALL):
            request = UpsertRecordsRequest(
                collection=name,
                records=[row.record for row in batch],
                vectors=VectorArray(
                    data=b"".join(row.vector for row in batch), dimension=collection.dimension, space=file.space
                ),
            )
            tally.add(batch, (yield from send(UPSERT, request)))
            show(tally.imported + tally.failed)
    return tally.report(name, time.monotonic() - started)


class Tally:
    """What became of the rows so far."""

    def __init__(self) -> None:
        self.imported = self.failed = self.seq = 0
        self.errors: list[ItemError] = []

    def without_errors(self, outcomes: Iterable[Row | ItemError]) -> Iterator[Row]:
        """The rows; what was wrong with the others is counted."""
        for outcome in outcomes:
            if isinstance(outcome, ItemError):
                self._refuse(outcome)
            else:
                yield outcome

    def add(self, batch: list[Row], response: UpsertRecordsResponse) -> None:
        """Count what a call wrote."""
        self.seq = max(self.seq, response.seq)
        self.imported += len(batch) - len(response.errors)
        for error in response.errors:
            self._refuse(item_error(error, batch[error.index].place))

    def report(self, collection: str, seconds: float) -> ImportReport:
        errors = sorted(self.errors, key=lambda error: error.index)
        return ImportReport(collection, self.imported, self.failed, tuple(errors), seconds, self.seq)

    def _refuse(self, error: ItemError) -> None:
        self.failed += 1
        if len(self.errors) < LISTED_ERRORS:
            self.errors.append(error)


def _size(row: Row) -> int:
    return row.record.ByteSize() + len(row.vector)


def _target(file: File, name: str) -> Operation[Collection]:
    """The collection that the rows go to, made as the file says where there is none, and ready for them."""
    if not name:
        raise InvalidArgument("say which collection: the file does not", field="name")
    try:
        found: Collection = (yield from send(GET_COLLECTION, GetCollectionRequest(name=name))).collection
        file.check(found)
    except NotFound:
        if file.definition is None:
            raise
        file.check(file.definition)
        found = yield from _create(name, file.definition)
    attributes = file.new_attributes(found)
    if attributes:
        yield from send(UPDATE_COLLECTION, UpdateCollectionRequest(name=name, attributes=attributes))
    return found


def _create(name: str, definition: Collection) -> Operation[Collection]:
    request = CreateCollectionRequest(
        name=name,
        embedder=definition.embedder,
        dimension=definition.dimension,
        metric=definition.metric,
        attributes=definition.attributes,
        train_at=definition.train_at,
        thumbnails=definition.thumbnails,
        keep_images=definition.keep_images,
        index=definition.index if definition.HasField("index") else None,
    )
    made: Collection = (yield from send(CREATE_COLLECTION, request)).collection
    if made.space != definition.space:
        # What space an embedder of that name has on this server shows only now; nobody can have used it yet.
        yield from send(DELETE_COLLECTION, DeleteCollectionRequest(name=name))
        said = f"is in the space {definition.space}; {made.embedder!r} on this server is {made.space}"
        raise EmbeddingSpaceMismatch(said, field="vector")
    return made
