"""What is known of the image that a vector was made of: written beside the vector, read back as it was."""

from typing import Any

import numpy as np
import pytest

from tests.server.images import jpeg, picture
from vitrail.rpc.vectors import to_bytes
from vitrail.server.journal import Journal
from vitrail.server.records import RecordService
from vitrail.server.topology import Topology
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.record_pb2 import GetRecordRequest, Record, RecordInput, UpsertRecordsRequest
from vitrail.v1.types_pb2 import Value, Vector, VectorArray

HASH, THUMBNAIL = bytes(range(32)), jpeg(picture())
VECTOR = to_bytes(np.array([0.1, -2.0], np.float32))


class Context:
    def time_remaining(self) -> float:
        return 5.0


CONTEXT: Any = Context()


@pytest.fixture
async def service(journal: Journal) -> RecordService:
    journal.store.create_collection(Collection(name="c", dimension=2))
    await journal.load_catalog()
    pipeline: Any = None  # nothing is embedded
    return RecordService(journal, pipeline, Topology([]), 5.0)


async def get(service: RecordService, record_id: str) -> Record:
    return (await service.GetRecord(GetRecordRequest(collection="c", id=record_id), CONTEXT)).record


@pytest.mark.parametrize("packed", [False, True])
async def test_hash_and_thumbnail_come_back_beside_their_vector(service: RecordService, packed: bool) -> None:
    """Bit for bit, with an own vector or a packed one; a change of attributes alone keeps them."""
    record = RecordInput(id="a", content_hash=HASH, thumbnail=THUMBNAIL)
    request = UpsertRecordsRequest(collection="c", records=[record])
    if packed:
        request.vectors.CopyFrom(VectorArray(data=VECTOR, dimension=2))
    else:
        request.records[0].vector.data = VECTOR
    assert not (await service.UpsertRecords(request, CONTEXT)).errors
    change = RecordInput(id="a", attributes={"n": Value(integer_value=1)})
    await service.UpsertRecords(UpsertRecordsRequest(collection="c", records=[change]), CONTEXT)
    found = await get(service, "a")
    assert (found.content_hash, found.thumbnail, found.vector.data) == (HASH, THUMBNAIL, VECTOR)
    assert found.attributes["n"].integer_value == 1


async def test_what_is_wrong_with_them_is_said_of_their_record_alone(service: RecordService) -> None:
    """Each is refused by its field, beside a neighbour that is written."""
    vector = Vector(data=VECTOR)
    records = [
        RecordInput(id="short", vector=vector, content_hash=HASH[:31]),
        RecordInput(id="good", vector=vector, content_hash=HASH),
        RecordInput(id="text", vector=vector, thumbnail=b"<html>"),
        RecordInput(id="image", image=THUMBNAIL, content_hash=HASH),
        RecordInput(id="good", thumbnail=THUMBNAIL),
    ]
    response = await service.UpsertRecords(UpsertRecordsRequest(collection="c", records=records), CONTEXT)
    assert [(error.index, error.code, error.field) for error in response.errors] == [
        (0, 3, "content_hash"),
        (2, 3, "thumbnail"),
        (3, 3, "content_hash"),
        (4, 3, "thumbnail"),
    ]
    assert (await get(service, "good")).content_hash == HASH
