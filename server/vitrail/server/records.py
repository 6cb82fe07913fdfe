"""Writing and reading records. One bad item never fails its neighbours."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc import vectors
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, VitrailError
from vitrail.rpc.server import Context
from vitrail.server import filters, validate
from vitrail.server.deadlines import deadline_of
from vitrail.server.embedding import Embedded, Pipelines
from vitrail.server.journal import Journal
from vitrail.server.matching import match
from vitrail.server.queries import stored_vector
from vitrail.server.service import ITEM_ERRORS, item_error
from vitrail.server.store import StoredRecord
from vitrail.server.topology import Topology
from vitrail.server.writing import AGAIN_SECONDS, NewRecord, Write, Written
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.record_pb2 import (
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    FillRecordsRequest,
    FillRecordsResponse,
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
# Images that are read to fill records from, at a time.
FILL_BYTES = 64 << 20
# Records of a stream that are written together.
STREAM_BATCH = 64

Outcome = NewRecord | VitrailError


class RecordService(RecordServiceServicer):
    """Writes records to the store and reads them back."""

    def __init__(self, journal: Journal, pipelines: Pipelines, topology: Topology, default_timeout: float) -> None:
        self._journal = journal
        self._pipelines = pipelines
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
        written, errors = await self._write(collection, request.records, outcomes, deadline)
        return UpsertRecordsResponse(
            seq=written.seq,
            mark=written.mark,
            errors=[item_error(index, error, request.records[index].id) for index, error in sorted(errors.items())],
        )

    async def StreamRecords(  # noqa: N802
        self, request_iterator: AsyncIterator[StreamRecordsRequest], context: Context
    ) -> AsyncIterator[StreamRecordsResponse]:
        name, done = "", 0
        async for batch in _batches(request_iterator, STREAM_BATCH):
            name = name or batch[0].collection
            collection = self._journal.catalog.get(name)  # each time: another version may serve meanwhile
            deadline = deadline_of(context, self._default_timeout)
            records = [request.record for request in batch]
            outcomes = await self._prepare(records, collection, deadline)
            written, errors = await self._write(collection, records, outcomes, deadline)
            for index, record in enumerate(records):
                if index in errors:
                    yield StreamRecordsResponse(id=record.id, error=item_error(done + index, errors[index], record.id))
                else:
                    yield StreamRecordsResponse(id=record.id, seq=written.seq, mark=written.mark)
            done += len(batch)

    async def GetRecord(self, request: GetRecordRequest, context: Context) -> GetRecordResponse:  # noqa: N802
        collection = self._journal.catalog.get(request.collection)
        found = await self._journal.read(self._journal.store.get, collection.uid, [request.id])
        if request.id not in found:
            raise NotFound(f"there is no record {request.id!r}", field="id")
        record = _message(found[request.id], collection)
        if request.include_image:
            images = await self._journal.read(self._journal.store.images, collection.name, [request.id])
            record.image = images.get(request.id, b"")
        return GetRecordResponse(record=record)

    async def ListRecords(self, request: ListRecordsRequest, context: Context) -> ListRecordsResponse:  # noqa: N802
        collection = self._journal.catalog.get(request.collection)
        size = validate.page_size(request.page_size)
        content = {
            "vectors": request.include_vectors,
            "thumbnails": request.include_thumbnails,
            "pending": request.pending,
        }
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
            return await self._delete_matching(request, collection, deadline)
        if not request.ids:
            raise InvalidArgument("give ids or a filter", field="ids")
        if len(request.ids) > validate.MAX_RECORDS:
            raise InvalidArgument(f"more than {validate.MAX_RECORDS:,} in one call", field="ids")
        written = await self._commit(Write(collection.uid, deletes=list(request.ids)), collection, deadline)
        return DeleteRecordsResponse(seq=written.seq, mark=written.mark, deleted=written.deleted)

    async def FillRecords(self, request: FillRecordsRequest, context: Context) -> FillRecordsResponse:  # noqa: N802
        deadline = deadline_of(context, self._default_timeout)
        collection = self._journal.catalog.get(request.collection)
        self._pipelines.of(collection)
        size, store = validate.fill_size(request.page_size), self._journal.store
        listed = await self._journal.read(
            store.list, collection.uid, request.page_token, size, vectors=False, thumbnails=False, pending=True
        )
        sizes = await self._journal.read(store.image_sizes, collection.name, [record.id for record in listed])
        found = _fitting(listed, sizes)
        images = await self._journal.read(store.images, collection.name, [record.id for record in found])
        records = [
            RecordInput(id=each.id, image=images[each.id], fills=each.seq) for each in found if each.id in images
        ]
        outcomes = await self._prepare(records, collection, deadline)
        _, errors = await self._write(collection, records, outcomes, deadline)
        unknown = NotFound("its image is not kept", field="image")
        return FillRecordsResponse(
            filled=len(records) - len(errors),
            errors=[
                *(item_error(0, errors[index], records[index].id) for index in sorted(errors)),
                *(item_error(0, unknown, each.id) for each in found if each.id not in images),
            ],
            next_page_token=found[-1].id if len(found) < len(listed) or len(listed) == size else "",
        )

    async def _delete_matching(
        self, request: DeleteRecordsRequest, collection: Collection, deadline: Deadline
    ) -> DeleteRecordsResponse:
        """Delete all records that meet a filter, as the shards know them.

        All ids are found before any is deleted. More than 10,000 are deleted in several transactions: where the time
        is over between two of them, those before are deleted.
        """
        condition = filters.parse(request.filter, collection.attributes)
        matches = await match(self._journal, self._topology, collection.uid, condition, deadline)
        response = DeleteRecordsResponse()
        for found in matches:
            for start in range(0, len(found.ids), validate.MAX_RECORDS):
                ids = found.ids[start : start + validate.MAX_RECORDS]
                write = Write(collection.uid, deletes=ids, deletes_as_of=found.seq)
                written = await self._commit(write, collection, deadline)
                if written.seq > response.seq:
                    response.seq, response.mark = written.seq, written.mark
                response.deleted += written.deleted
        return response

    async def _prepare(
        self, records: Sequence[RecordInput], collection: Collection, deadline: Deadline
    ) -> list[Outcome]:
        """Each record ready to be written, or what is wrong with it."""
        room = asyncio.Semaphore(IMAGES_AT_A_TIME)

        async def prepare(record: RecordInput) -> Outcome:
            try:
                _check(record, collection, has_vector=record.HasField("vector"))
                async with room:
                    return await self._prepared(record, collection, deadline)
            except ITEM_ERRORS as error:
                return error

        return await asyncio.gather(*map(prepare, records))

    async def _prepared(self, record: RecordInput, collection: Collection, deadline: Deadline) -> NewRecord:
        match record.WhichOneof("content"):
            case "image":
                return await self._embedded(record, collection, deadline)
            case "vector":
                return _with_vector(record, validate.vector(record.vector, collection, "vector"))
            case _:
                return NewRecord(record.id, record.attributes, record.uri)

    async def _embedded(self, record: RecordInput, collection: Collection, deadline: Deadline) -> NewRecord:
        """An image in the space of its collection and, where it is no fill, of the other versions that can be here."""
        pipelines = {collection.uid: self._pipelines.of(collection)}
        if not record.fills:
            others = {each.uid: self._pipelines.find(each) for each in self._journal.catalog.versions(collection)}
            pipelines |= {uid: pipeline for uid, pipeline in others.items() if pipeline}
        embedding = (
            pipeline.embed(record.image, deadline, field="image", with_thumbnail=collection.thumbnails, bulk=True)
            for pipeline in pipelines.values()
        )
        found = dict(zip(pipelines, await asyncio.gather(*embedding), strict=True))
        made = {uid: _stored(each) for uid, each in found.items()}
        return NewRecord(
            record.id,
            record.attributes,
            record.uri,
            made.pop(collection.uid),
            hashlib.sha256(record.image).digest(),
            found[collection.uid].thumbnail,
            others=made,
            image=record.image if collection.keep_images else b"",
            fills=record.fills,
        )

    async def _write(
        self, collection: Collection, records: Sequence[RecordInput], outcomes: Sequence[Outcome], deadline: Deadline
    ) -> tuple[Written, dict[int, VitrailError]]:
        """Write what can be written; returns what came of it and what is wrong with the rest, by position."""
        errors = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, VitrailError)}
        ready = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, NewRecord)]
        if not ready:
            return Written(), errors
        written = await self._commit(Write(collection.uid, [record for _, record in ready]), collection, deadline)
        for position in written.missing:
            errors[ready[position][0]] = NotFound("give an image or a vector: there is no such record yet", field="id")
        for position in written.outdated:
            errors[ready[position][0]] = FailedPrecondition(
                "it does not wait for this vector: written or filled since, or of another image", field="fills"
            )
        for position, misfit in written.misfits.items():
            errors[ready[position][0]] = InvalidArgument(str(misfit), field=misfit.field)
        return written, errors

    async def _commit(self, write: Write, collection: Collection, deadline: Deadline) -> Written:
        """Write to a collection.

        Raises:
            Unavailable: Another version of it serves by now: the call is to be made again for that one.
        """
        try:
            return await self._journal.write(write, deadline)
        except NotFound:
            await self._journal.load_catalog()
            self._journal.catalog.get(collection.name)
            raise Unavailable("this version of the collection was deleted", retry_after=AGAIN_SECONDS) from None


def _packed(request: UpsertRecordsRequest, collection: Collection) -> list[Outcome]:
    """Records whose vectors come packed as one array."""
    rows = validate.vector_array(request.vectors, collection, "vectors")
    if len(rows) != len(request.records):
        raise InvalidArgument(f"{len(rows)} vectors for {len(request.records)} records", field="vectors")
    outcomes: list[Outcome] = []
    for record, row, wrong in zip(request.records, rows, validate.unusable(rows, collection), strict=True):
        try:
            _check(record, collection, has_vector=True)
            if record.WhichOneof("content"):
                raise InvalidArgument("the vectors of all records come packed", field=str(record.WhichOneof("content")))
            if wrong:
                raise InvalidArgument(wrong, field="vector")
            outcomes.append(_with_vector(record, row))
        except VitrailError as error:
            outcomes.append(error)
    return outcomes


def _stored(found: Embedded) -> bytes:
    """As it is kept: a unit vector in half precision, which keeps its components to three digits and more."""
    return found.vector.astype("<f2" if found.is_unit else "<f4").tobytes()


def _with_vector(record: RecordInput, vector: NDArray[np.float32]) -> NewRecord:
    data = vectors.to_bytes(vector)
    return NewRecord(
        record.id, record.attributes, record.uri, data, record.content_hash, record.thumbnail, fills=record.fills
    )


def _check(record: RecordInput, collection: Collection, *, has_vector: bool) -> None:
    validate.record_id(record.id, "id")
    validate.uri(record.uri, "uri")
    validate.attributes(record.attributes, "attributes")
    validate.origin(record, has_vector=has_vector)
    has_content = has_vector or record.HasField("image")
    if record.fills < 0 or (record.fills and not has_content):
        raise InvalidArgument("comes with an image or a vector, and is the seq of a pending record", field="fills")
    if has_content and not record.fills and not collection.serves:
        said = f"version {collection.version} does not serve: write to {collection.name!r}, or fill what is pending"
        raise FailedPrecondition(said, field="fills")


def _fitting(listed: Sequence[StoredRecord], sizes: Mapping[str, int]) -> Sequence[StoredRecord]:
    """As many of some records, from the first on, as have images that can be held at once."""
    total = 0
    for count, record in enumerate(listed):
        total += sizes.get(record.id, 0)
        if count and total > FILL_BYTES:
            return listed[:count]
    return listed


def _message(record: StoredRecord, collection: Collection) -> Record:
    message = Record(
        id=record.id,
        attributes=Attributes.FromString(record.attributes).fields,
        uri=record.uri,
        seq=record.seq,
        content_hash=record.content_hash,
        thumbnail=record.thumbnail,
        pending=record.pending,
    )
    message.update_time.FromMicroseconds(record.updated_at)
    if record.vector:  # empty where it was not asked for, or is pending
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
