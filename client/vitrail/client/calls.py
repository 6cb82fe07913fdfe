"""Operations as generators: what the SDK does, without a socket.

An operation yields each call that it wants to make, is sent the response or thrown the error, and returns its
result. `Client` and `AsyncClient` drive the same operations and differ only in how they wait.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from vitrail.rpc.errors import VitrailError
from vitrail.v1 import cluster_pb2, collection_pb2, record_pb2, search_pb2

R = TypeVar("R", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method(Generic[R]):
    """A method of a service, and what it answers with."""

    path: str
    response: type[R]


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    method: Method[R]
    request: Message


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    result: T


Operation: TypeAlias = Generator[Call[Any], Any, T]


def send(method: Method[R], request: Message) -> Generator[Call[Any], Any, R]:
    """Make one call within an operation; to be used with `yield from`."""
    response: R = yield Call(method, request)
    return response


def advance(operation: Operation[T], outcome: Message | VitrailError | None) -> Call[Any] | Done[T]:
    """Hand an operation what became of its call, None at the start; get its next call, or its result."""
    try:
        if isinstance(outcome, VitrailError):
            return operation.throw(outcome)
        return operation.send(outcome)
    except StopIteration as stop:
        return Done(stop.value)


SEARCH = Method("/vitrail.v1.SearchService/Search", search_pb2.SearchResponse)
BATCH_SEARCH = Method("/vitrail.v1.SearchService/BatchSearch", search_pb2.BatchSearchResponse)

EMBED = Method("/vitrail.v1.SearchService/Embed", search_pb2.EmbedResponse)

UPSERT = Method("/vitrail.v1.RecordService/UpsertRecords", record_pb2.UpsertRecordsResponse)
GET_RECORD = Method("/vitrail.v1.RecordService/GetRecord", record_pb2.GetRecordResponse)
LIST_RECORDS = Method("/vitrail.v1.RecordService/ListRecords", record_pb2.ListRecordsResponse)
FILL = Method("/vitrail.v1.RecordService/FillRecords", record_pb2.FillRecordsResponse)
DELETE = Method("/vitrail.v1.RecordService/DeleteRecords", record_pb2.DeleteRecordsResponse)

SHARDS = Method("/vitrail.v1.ClusterService/GetShards", cluster_pb2.GetShardsResponse)
SET_SHARDS = Method("/vitrail.v1.ClusterService/SetShards", cluster_pb2.SetShardsResponse)

_COLLECTIONS = "/vitrail.v1.CollectionService"
CREATE_COLLECTION = Method(f"{_COLLECTIONS}/CreateCollection", collection_pb2.CreateCollectionResponse)
GET_COLLECTION = Method(f"{_COLLECTIONS}/GetCollection", collection_pb2.GetCollectionResponse)
LIST_COLLECTIONS = Method(f"{_COLLECTIONS}/ListCollections", collection_pb2.ListCollectionsResponse)
UPDATE_COLLECTION = Method(f"{_COLLECTIONS}/UpdateCollection", collection_pb2.UpdateCollectionResponse)
DELETE_COLLECTION = Method(f"{_COLLECTIONS}/DeleteCollection", collection_pb2.DeleteCollectionResponse)
CREATE_VERSION = Method(f"{_COLLECTIONS}/CreateVersion", collection_pb2.CreateVersionResponse)
LIST_VERSIONS = Method(f"{_COLLECTIONS}/ListVersions", collection_pb2.ListVersionsResponse)
ACTIVATE_VERSION = Method(f"{_COLLECTIONS}/ActivateVersion", collection_pb2.ActivateVersionResponse)
DELETE_VERSION = Method(f"{_COLLECTIONS}/DeleteVersion", collection_pb2.DeleteVersionResponse)
PURGE = Method(f"{_COLLECTIONS}/PurgeCollection", collection_pb2.PurgeCollectionResponse)
STATS = Method(f"{_COLLECTIONS}/GetCollectionStats", collection_pb2.GetCollectionStatsResponse)
