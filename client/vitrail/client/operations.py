"""What each method of the clients does, as generators of calls; see `calls`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from vitrail.client import requests, responses
from vitrail.client.batches import ITEMS_PER_CALL, ROWS_PER_CALL, batches
from vitrail.client.calls import (
    ACTIVATE_VERSION,
    BATCH_SEARCH,
    CREATE_COLLECTION,
    CREATE_VERSION,
    DELETE,
    DELETE_COLLECTION,
    DELETE_VERSION,
    EMBED,
    GET_COLLECTION,
    GET_RECORD,
    LIST_COLLECTIONS,
    LIST_RECORDS,
    LIST_VERSIONS,
    PURGE,
    SEARCH,
    SET_SHARDS,
    SHARDS,
    STATS,
    UPDATE_COLLECTION,
    UPSERT,
    Operation,
    send,
)
from vitrail.client.images import ImageLike
from vitrail.client.models import (
    BatchResults,
    Collection,
    CollectionStats,
    DeleteResult,
    Embeddings,
    ItemError,
    PurgeReport,
    Query,
    Record,
    SearchResult,
    Shards,
    StoredRecord,
    UpsertResult,
    Version,
)
from vitrail.client.requests import SearchOptions, int32
from vitrail.client.vectors import MatrixLike, to_array, to_float32
from vitrail.rpc.attributes import AttributeValue
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import AlreadyExists, InvalidArgument
from vitrail.rpc.vectors import FLOAT32, to_bytes
from vitrail.v1 import cluster_pb2, collection_pb2, record_pb2, search_pb2, types_pb2

PAGE = 1000
PAGE_WITH_CONTENT = 200
IMAGES_PER_CALL = 64
MAX_QUERIES = 1_000
MAX_HITS = 100_000


def create_collection(request: collection_pb2.CreateCollectionRequest, exist_ok: bool) -> Operation[Collection]:
    try:
        response = yield from send(CREATE_COLLECTION, request)
    except AlreadyExists:
        if not exist_ok:
            raise
        return (yield from get_collection(request.name))
    return responses.collection(response.collection)


def get_collection(name: str) -> Operation[Collection]:
    request = collection_pb2.GetCollectionRequest(name=name)
    response = yield from send(GET_COLLECTION, request)
    return responses.collection(response.collection)


def list_collections() -> Operation[list[Collection]]:
    response = yield from send(LIST_COLLECTIONS, collection_pb2.ListCollectionsRequest())
    return [responses.collection(message) for message in response.collections]


def update_collection(request: collection_pb2.UpdateCollectionRequest) -> Operation[Collection]:
    response = yield from send(UPDATE_COLLECTION, request)
    return responses.collection(response.collection)


def delete_collection(name: str) -> Operation[None]:
    yield from send(DELETE_COLLECTION, collection_pb2.DeleteCollectionRequest(name=name))


def create_version(request: collection_pb2.CreateVersionRequest) -> Operation[Collection]:
    response = yield from send(CREATE_VERSION, request)
    return responses.collection(response.collection)


def versions(name: str) -> Operation[list[Version]]:
    response = yield from send(LIST_VERSIONS, collection_pb2.ListVersionsRequest(name=name))
    return [responses.version(message) for message in response.versions]


def activate_version(name: str, version: int) -> Operation[Collection]:
    request = collection_pb2.ActivateVersionRequest(name=name, version=int32(version, "version"))
    response = yield from send(ACTIVATE_VERSION, request)
    return responses.collection(response.collection)


def delete_version(name: str, version: int) -> Operation[None]:
    request = collection_pb2.DeleteVersionRequest(name=name, version=int32(version, "version"))
    yield from send(DELETE_VERSION, request)


def stats(name: str) -> Operation[CollectionStats]:
    response = yield from send(STATS, collection_pb2.GetCollectionStatsRequest(name=name))
    return responses.collection_stats(response)


def purge(name: str, timeout: float, on_progress: Callable[[PurgeReport], None] | None) -> Operation[PurgeReport]:
    """Ask again until nothing is left, or the time is over; each call waits for progress on the server."""
    deadline, seq = Deadline.after(timeout), 0
    while True:
        response = yield from send(PURGE, collection_pb2.PurgeCollectionRequest(name=name, seq=seq))
        report = responses.purge_report(response)
        if on_progress is not None:
            on_progress(report)
        if report.done or deadline.expired:
            return report
        seq = report.seq


def shards() -> Operation[Shards]:
    response = yield from send(SHARDS, cluster_pb2.GetShardsRequest())
    return responses.shards(response)


def set_shards(count: int) -> Operation[None]:
    yield from send(SET_SHARDS, cluster_pb2.SetShardsRequest(shards=int32(count, "shards")))


def upsert(
    name: str,
    records: Iterable[Record] | None,
    ids: Sequence[str] | None,
    vectors: MatrixLike | None,
    attributes: Sequence[Mapping[str, AttributeValue]] | None,
    space: str | None,
) -> Operation[UpsertResult]:
    """Either of the two forms of `upsert`."""
    if records is not None and ids is None and vectors is None and attributes is None:
        return upsert_records(name, records, space)
    if records is None and ids is not None and vectors is not None:
        return upsert_vectors(name, ids, vectors, attributes, space)
    raise InvalidArgument("give either records, or ids and vectors", field="records")


def upsert_records(name: str, records: Iterable[Record], space: str | None) -> Operation[UpsertResult]:
    """Write records that carry their own content, read and encoded batch by batch."""
    errors: list[ItemError] = []
    inputs = requests.record_inputs(records, space, errors)
    calls = (
        (
            [index for index, _ in batch],
            record_pb2.UpsertRecordsRequest(collection=name, records=[message for _, message in batch]),
        )
        for batch in batches(inputs, _size, max_items=ITEMS_PER_CALL)
    )
    return (yield from _upsert(calls, errors))


def upsert_vectors(
    name: str,
    ids: Sequence[str],
    vectors: MatrixLike,
    attributes: Sequence[Mapping[str, AttributeValue]] | None,
    space: str | None,
) -> Operation[UpsertResult]:
    """Write vectors [n, d], packed as one array a call."""
    matrix = to_array(vectors, 2, "vectors")
    if len(ids) != len(matrix):
        raise InvalidArgument(f"{len(ids)} ids for {len(matrix)} vectors", field="ids")
    if attributes is not None and len(attributes) != len(matrix):
        raise InvalidArgument(f"{len(attributes)} for {len(matrix)} vectors", field="attributes")
    each = repeat({}, len(ids)) if attributes is None else attributes
    records = (Record(id, attributes=values) for id, values in zip(ids, each, strict=True))
    errors: list[ItemError] = []
    inputs = requests.record_inputs(records, space, errors)
    width = matrix.shape[1] * FLOAT32.itemsize
    calls = (
        (
            [index for index, _ in batch],
            record_pb2.UpsertRecordsRequest(
                collection=name,
                records=[message for _, message in batch],
                vectors=packed(matrix[[index for index, _ in batch]], space),
            ),
        )
        for batch in batches(inputs, lambda row: _size(row) + width, max_items=ROWS_PER_CALL)
    )
    return (yield from _upsert(calls, errors))


def _upsert(
    calls: Iterable[tuple[list[int], record_pb2.UpsertRecordsRequest]], errors: list[ItemError]
) -> Operation[UpsertResult]:
    """Make the calls; each comes with the places of its records in what the caller gave."""
    seq = mark = 0
    for places, request in calls:
        response = yield from send(UPSERT, request)
        seq, mark = max((seq, mark), (response.seq, response.mark))
        errors += [responses.item_error(error, places[error.index]) for error in response.errors]
    return UpsertResult(seq, tuple(sorted(errors, key=lambda error: error.index)), mark)


def get(name: str, id: str, include: Iterable[Literal["image"]]) -> Operation[StoredRecord]:
    wanted = set(include)
    if not wanted <= {"image"}:
        raise InvalidArgument(f"{sorted(wanted)} is not image", field="include")
    request = record_pb2.GetRecordRequest(collection=name, id=requests.checked_id(id), include_image="image" in wanted)
    response = yield from send(GET_RECORD, request)
    return responses.stored_record(response.record)


def list_page(
    name: str, token: str, include: Iterable[Literal["vector", "thumbnail"]], pending: bool
) -> Operation[tuple[list[StoredRecord], str]]:
    """One page of records, and the token of the next; empty on the last."""
    wanted = set(include)
    if not wanted <= {"vector", "thumbnail"}:
        raise InvalidArgument(f"{sorted(wanted)} is not vector, thumbnail, or both", field="include")
    request = record_pb2.ListRecordsRequest(
        collection=name,
        page_size=PAGE_WITH_CONTENT if wanted else PAGE,
        page_token=token,
        include_vectors="vector" in wanted,
        include_thumbnails="thumbnail" in wanted,
        pending=pending,
    )
    response = yield from send(LIST_RECORDS, request)
    return list(map(responses.stored_record, response.records)), response.next_page_token


def delete(name: str, ids: Iterable[str] | None, filter: str | None) -> Operation[DeleteResult]:
    """Either of the two forms of `delete`."""
    if ids is not None and filter is None:
        return delete_ids(name, ids)
    if ids is None and filter is not None:
        return delete_matching(name, filter)
    raise InvalidArgument("give either ids or a filter", field="ids")


def delete_matching(name: str, filter: str) -> Operation[DeleteResult]:
    response = yield from send(DELETE, requests.delete_request(name, filter))
    return DeleteResult(response.seq, response.deleted, response.mark)


def delete_ids(name: str, ids: Iterable[str]) -> Operation[DeleteResult]:
    if isinstance(ids, str):
        raise InvalidArgument("a list of ids, not a single one", field="ids")
    checked = (requests.checked_id(id, f"ids[{index}]") for index, id in enumerate(ids))
    seq = mark = deleted = 0
    for batch in batches(checked, len, max_items=ROWS_PER_CALL):
        response = yield from send(DELETE, record_pb2.DeleteRecordsRequest(collection=name, ids=batch))
        seq, mark = max((seq, mark), (response.seq, response.mark))
        deleted += response.deleted
    return DeleteResult(seq, deleted, mark)


def search(name: str, query: Query, options: SearchOptions, space: str | None) -> Operation[SearchResult]:
    request = search_pb2.SearchRequest(collection=name, query=requests.query_message(query, space), **options.fields())
    return responses.search_result((yield from send(SEARCH, request)))


def search_batch(
    name: str,
    queries: Iterable[Query] | None,
    images: Iterable[ImageLike] | None,
    vectors: MatrixLike | None,
    options: SearchOptions,
    space: str | None,
) -> Operation[BatchResults]:
    """Any of the three forms of `search_batch`."""
    if sum(given is not None for given in (queries, images, vectors)) != 1:
        raise InvalidArgument("give one of queries, images, vectors", field="queries")
    if vectors is not None:
        return search_vectors(name, vectors, options, space)
    if images is not None:
        queries = (Query(image=image) for image in images)
    return search_queries(name, queries or (), options, space)


def embed(
    images: Iterable[ImageLike] | None, texts: Iterable[str] | None, embedder: str | None
) -> Operation[Embeddings]:
    """Vectors of images, or of texts, in calls that end soon."""
    if (images is None) == (texts is None):
        raise InvalidArgument("give either images or texts", field="images")
    errors: list[ItemError] = []
    found: dict[int, NDArray[np.float32]] = {}
    response = search_pb2.EmbedResponse()
    inputs = requests.embed_inputs(images or (), texts or (), errors)
    for batch in batches(inputs, _size, max_items=IMAGES_PER_CALL):
        request = search_pb2.EmbedRequest(embedder=embedder or "", inputs=[message for _, message in batch])
        response = yield from send(EMBED, request)
        for (place, _), result in zip(batch, response.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                errors.append(responses.item_error(result.error, place))
            else:
                found[place] = np.frombuffer(result.vector.data, FLOAT32)
    return responses.embeddings(found, errors, response)


def search_queries(
    name: str, queries: Iterable[Query], options: SearchOptions, space: str | None
) -> Operation[BatchResults]:
    """Search with queries of any kind, read and encoded batch by batch."""
    errors: list[ItemError] = []
    inputs = requests.query_messages(queries, space, errors)
    calls = (
        (
            [index for index, _ in batch],
            search_pb2.BatchSearchRequest(
                collection=name, queries=[message for _, message in batch], **options.fields()
            ),
        )
        for batch in batches(inputs, _size, max_items=min(ITEMS_PER_CALL, _queries_per_call(options)))
    )
    return (yield from _search(calls, errors))


def search_vectors(
    name: str, vectors: MatrixLike, options: SearchOptions, space: str | None
) -> Operation[BatchResults]:
    """Search with vectors [n, d], packed as one array a call."""
    matrix = to_array(vectors, 2, "vectors")
    width = matrix.shape[1] * FLOAT32.itemsize
    calls = (
        (
            batch,
            search_pb2.BatchSearchRequest(collection=name, vectors=packed(matrix[batch], space), **options.fields()),
        )
        for batch in batches(range(len(matrix)), lambda _: width, max_items=_queries_per_call(options))
    )
    return (yield from _search(calls, []))


def _search(
    calls: Iterable[tuple[list[int], search_pb2.BatchSearchRequest]], errors: list[ItemError]
) -> Operation[BatchResults]:
    """Make the calls; each comes with the places of its queries in what the caller gave."""
    outcomes: dict[int, SearchResult | ItemError] = {}
    for places, request in calls:
        response = yield from send(BATCH_SEARCH, request)
        for place, result in zip(places, response.results, strict=True):
            outcomes[place] = responses.batch_result(result, place)
    outcomes.update((error.index, error) for error in errors)
    return [outcomes[place] for place in sorted(outcomes)]


def packed(rows: NDArray[Any], space: str | None) -> types_pb2.VectorArray:
    """Pack vectors [n, d]. The server judges each row by itself, so that a NaN fails no neighbour."""
    return types_pb2.VectorArray(data=to_bytes(to_float32(rows)), dimension=rows.shape[1], space=space or "")


def _queries_per_call(options: SearchOptions) -> int:
    return max(1, min(MAX_QUERIES, MAX_HITS // max(1, options.top_k)))


def _size(item: tuple[int, Message]) -> int:
    return item[1].ByteSize()
