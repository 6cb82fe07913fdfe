"""Writing and reading records. One bad item never fails its neighbours."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc import vectors
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import InvalidArgument, NotFound, VitrailError
from vitrail.rpc.server import Context
from vitrail.server import filters, validate
from vitrail.server.deadlines import deadline_of
from vitrail.server.embedding import Pipeline
from vitrail.server.journal import Journal
from vitrail.server.matching import match
from vitrail.server.queries import stored_vector
from vitrail.server.service import ITEM_ERRORS, item_error
from vitrail.server.store import NewRecord, StoredRecord, Write
from vitrail.server.topology import Topology
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.record_pb2 import (
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    GetRecordRequest,
    GetRecordResponse,
    ListRecordsRequest,
    ListRecordsResponse,
    Record,
    RecordInput,
    StreamRecordsRequest,
    StreamRecordsResponse,
    UpsertRecordsRequest,
    UpsertRecordsResponse,
)
from vitrail.v1.record_pb2_grpc import RecordServiceServicer
from vitrail.v1.types_pb2 import Attributes, Vector

# Images of one call that are decoded or wait for the device at a time, so that one large call leaves room for others.
IMAGES_AT_A_TIME = 64
# Records of a stream that are written together.
STREAM_BATCH = 64

Outcome = NewRecord | VitrailError


class RecordService(RecordServiceServicer):
    """Writes records to the store and reads them back."""

    def __init__(self, journal: Journal, pipeline: Pipeline, topology: Topology, default_timeout: float) -> None:
        self._journal = journal
        self._pipeline = pipeline
        self._topology = topology
        self._default_timeout = default_timeout

    async def UpsertRecords(self, request: UpsertRecordsRequest, context: Context) -> UpsertRecordsResponse:  # noqa: N802
        deadline = deadline_of(context, self._default_timeout)
        collection = self._journal.catalog.get(request.collection)
        if len(request.records) > validate.MAX_RECORDS:
            raise InvalidArgument(f"more than {validate.MAX_RECORDS:,} in one call", field="records")
        if request.HasField("vectors"):
            outcomes = await asyncio.to_thread(_packed, request, collection)  # thousands of rows: searches go on
        else:
            outcomes = await self._prepare(request.records, collection, deadline)
        seq, errors = await self._write(collection, request.records, outcomes, deadline)
        return UpsertRecordsResponse(
            seq=seq,
            errors=[item_error(index, error, request.records[index].id) for index, error in sorted(errors.items())],
        )

    async def StreamRecords(  # noqa: N802
        self, request_iterator: AsyncIterator[StreamRecordsRequest], context: Context
    ) -> AsyncIterator[StreamRecordsResponse]:
        collection, done = None, 0
        async for batch in _batches(request_iterator, STREAM_BATCH):
            collection = collection or self._journal.catalog.get(batch[0].collection)
            deadline = deadline_of(context, self._default_timeout)
            records = [request.record for request in batch]
            outcomes = await self._prepare(records, collection, deadline)
            seq, errors = await self._write(collection, records, outcomes, deadline)
            for index, record in enumerate(records):
                if index in errors:
                    yield StreamRecordsResponse(id=record.id, error=item_error(done + index, errors[index], record.id))
                else:
                    yield StreamRecordsResponse(id=record.id, seq=seq)
            done += len(batch)

    async def GetRecord(self, request: GetRecordRequest, context: Context) -> GetRecordResponse:  # noqa: N802
        collection = self._journal.catalog.get(request.collection)
        found = await self._journal.read(self._journal.store.get, collection.uid, [request.id])
        if request.id not in found:
            raise NotFound(f"there is no record {request.id!r}", field="id")
        return GetRecordResponse(record=_message(found[request.id], collection))

    async def ListRecords(self, request: ListRecordsRequest, context: Context) -> ListRecordsResponse:  # noqa: N802
        collection = self._journal.catalog.get(request.collection)
        size = validate.page_size(request.page_size)
        content = {"vectors": request.include_vectors, "thumbnails": request.include_thumbnails}
        found = await self._journal.read(self._journal.store.list, collection.uid, request.page_token, size, **content)
        return ListRecordsResponse(
            records=[_message(record, collection) for record in found],
            next_page_token=found[-1].id if len(found) == size else "",
        )

    async def DeleteRecords(self, request: DeleteRecordsRequest, context: Context) -> DeleteRecordsResponse:  # noqa: N802
        deadline = deadline_of(context, self._default_timeout)
        collection = self._journal.catalog.get(request.collection)
        if request.filter:
            if request.ids:
                raise InvalidArgument("give either ids or a filter", field="filter")
            return await self._delete_matching(request.filter, collection, deadline)
        if not request.ids:
            raise InvalidArgument("give ids or a filter", field="ids")
        if len(request.ids) > validate.MAX_RECORDS:
            raise InvalidArgument(f"more than {validate.MAX_RECORDS:,} in one call", field="ids")
        written = await self._journal.write(Write(collection.uid, deletes=list(request.ids)), deadline)
        return DeleteRecordsResponse(seq=written.seq, deleted=written.deleted)

    async def _delete_matching(self, text: str, collection: Collection, deadline: Deadline) -> DeleteRecordsResponse:
        """Delete all records that meet a filter, as the shards know them.

        All ids are found before any is deleted. More than 10,000 are deleted in several transactions: where the time
        is over between two of them, those before are deleted.
        """
        condition = filters.parse(text, collection.attributes)
        matches = await match(self._journal, self._topology, collection.uid, condition, deadline)
        response = DeleteRecordsResponse()
        for found in matches:
            for start in range(0, len(found.ids), validate.MAX_RECORDS):
                ids = found.ids[start : start + validate.MAX_RECORDS]
                write = Write(collection.uid, deletes=ids, deletes_as_of=found.seq)
                written = await self._journal.write(write, deadline)
                response.seq = max(response.seq, written.seq)
                response.deleted += written.deleted
        return response

    async def _prepare(
        self, records: Sequence[RecordInput], collection: Collection, deadline: Deadline
    ) -> list[Outcome]:
        """Each record ready to be written, or what is wrong with it."""
        room = asyncio.Semaphore(IMAGES_AT_A_TIME)

        async def prepare(record: RecordInput) -> Outcome:
            try:
                _check(record, has_vector=record.HasField("vector"))
                async with room:
                    return await self._prepared(record, collection, deadline)
            except ITEM_ERRORS as error:
                return error

        return await asyncio.gather(*map(prepare, records))

    async def _prepared(self, record: RecordInput, collection: Collection, deadline: Deadline) -> NewRecord:
        match record.WhichOneof("content"):
            case "image":
                self._pipeline.check_space(collection)
                found = await self._pipeline.embed(
                    record.image, deadline, field="image", with_thumbnail=collection.thumbnails
                )
                # Half precision: it is a unit vector, whose components it keeps to three digits and more.
                vector, digest = found.vector.astype("<f2").tobytes(), hashlib.sha256(record.image).digest()
                return NewRecord(record.id, record.attributes, record.uri, vector, digest, found.thumbnail)
            case "vector":
                return _with_vector(record, validate.vector(record.vector, collection, "vector"))
            case _:
                return NewRecord(record.id, record.attributes, record.uri)

    async def _write(
        self, collection: Collection, records: Sequence[RecordInput], outcomes: Sequence[Outcome], deadline: Deadline
    ) -> tuple[int, dict[int, VitrailError]]:
        """Write what can be written; returns the `seq` and what is wrong with the rest, by position."""
        errors = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, VitrailError)}
        ready = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, NewRecord)]
        if not ready:
            return 0, errors
        written = await self._journal.write(Write(collection.uid, [record for _, record in ready]), deadline)
        for position in written.missing:
            errors[ready[position][0]] = NotFound("give an image or a vector: there is no such record yet", field="id")
        for position, misfit in written.misfits.items():
            errors[ready[position][0]] = InvalidArgument(str(misfit), field=misfit.field)
        return written.seq, errors


def _packed(request: UpsertRecordsRequest, collection: Collection) -> list[Outcome]:
    """Records whose vectors come packed as one array."""
    rows = validate.vector_array(request.vectors, collection, "vectors")
    if len(rows) != len(request.records):
        raise InvalidArgument(f"{len(rows)} vectors for {len(request.records)} records", field="vectors")
    outcomes: list[Outcome] = []
    for record, row, wrong in zip(request.records, rows, validate.unusable(rows, collection), strict=True):
        try:
            _check(record, has_vector=True)
            if record.WhichOneof("content"):
                raise InvalidArgument("the vectors of all records come packed", field=str(record.WhichOneof("content")))
            if wrong:
                raise InvalidArgument(wrong, field="vector")
            outcomes.append(_with_vector(record, row))
        except VitrailError as error:
            outcomes.append(error)
    return outcomes


def _with_vector(record: RecordInput, vector: NDArray[np.float32]) -> NewRecord:
    data = vectors.to_bytes(vector)
    return NewRecord(record.id, record.attributes, record.uri, data, record.content_hash, record.thumbnail)


def _check(record: RecordInput, *, has_vector: bool) -> None:
    validate.record_id(record.id, "id")
    validate.uri(record.uri, "uri")
    validate.attributes(record.attributes, "attributes")
    validate.origin(record, has_vector=has_vector)


def _message(record: StoredRecord, collection: Collection) -> Record:
    message = Record(
        id=record.id,
        attributes=Attributes.FromString(record.attributes).fields,
        uri=record.uri,
        seq=record.seq,
        content_hash=record.content_hash,
        thumbnail=record.thumbnail,
    )
    message.update_time.FromMicroseconds(record.updated_at)
    if record.vector:  # empty where it was not asked for
        data = vectors.to_bytes(stored_vector(record.vector, collection.dimension))
        message.vector.CopyFrom(Vector(data=data, space=collection.space))
    return message


async def _batches(
    requests: AsyncIterator[StreamRecordsRequest], limit: int
) -> AsyncIterator[list[StreamRecordsRequest]]:
    """What has arrived by the time it is asked for, at least one and at most `limit`."""
    arrived: asyncio.Queue[StreamRecordsRequest | None] = asyncio.Queue(limit)

    async def read() -> None:
        try:
            async for request in requests:
                await arrived.put(request)
        except Exception:  # the caller of `read` gets it; cancelled, nobody waits for the end any more
            await arrived.put(None)
            raise
        await arrived.put(None)

    reader = asyncio.create_task(read())
    try:
        batch: list[StreamRecordsRequest] = []
        while (request := await arrived.get()) is not None:
            batch.append(request)
            if len(batch) == limit or arrived.empty():
                yield batch
                batch = []
        if batch:
            yield batch
        await reader
    finally:
        reader.cancel()
