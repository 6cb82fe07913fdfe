"""A small coordinator: dicts behind a real gRPC server on a free port.

It remembers the requests it got, fails as often as it is told to, and refuses images that are no images.
An image's "embedding" is a hash of its bytes, so that an image finds itself.
"""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from vitrail.rpc.attributes import TYPE_NAMES
from vitrail.rpc.channel import OPTIONS, STATUS_DETAILS
from vitrail.rpc.errors import AlreadyExists, InvalidArgument, NotFound, VitrailError, to_status
from vitrail.rpc.vectors import FLOAT32, from_bytes, to_bytes
from vitrail.v1 import collection_pb2, record_pb2, search_pb2, types_pb2

KINDS = {f"{name}_value": kind for name, kind in TYPE_NAMES.items()}
MAGIC = (b"\xff\xd8", b"\x89PNG")


@dataclass
class Fake(grpc.GenericRpcHandler):
    """A coordinator's state, and its services.

    Attributes:
        failures: Raised one after the other by the next calls, whatever they are.
        hang: While true, calls answer nothing until their caller has gone.
        hang_at: The same for calls with this message alone.
        hanging: Set once a call does so.
        page: The largest page of ListRecords.
        calls_to_purge: How often it is asked to purge until nothing is left.
        space: That of its embedder.
        refused_attributes: Names that no attribute may have.
        renumbers: Collections change their uid whenever a page is read.
        requests: All that came, in order, by the name of their message.
    """

    failures: list[VitrailError] = field(default_factory=list)
    hang: bool = False
    hang_at: str = ""
    hanging: threading.Event = field(default_factory=threading.Event)
    page: int = 1000
    calls_to_purge: int = 3
    space: str = "default:1"
    refused_attributes: set[str] = field(default_factory=set)
    renumbers: bool = False
    requests: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    collections: dict[str, collection_pb2.Collection] = field(default_factory=dict)
    records: dict[str, dict[str, record_pb2.Record]] = field(default_factory=lambda: defaultdict(dict))
    seq: int = 0
    address: str = ""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        request_type, answer = ANSWERS[details.method.rpartition("/")[2]]

        def handle(request: Message, context: grpc.ServicerContext) -> Message:
            self.requests[type(request).__name__].append(request)
            gone = threading.Event()
            if (self.hang or self.hang_at == type(request).__name__) and context.add_callback(gone.set):
                self.hanging.set()
                gone.wait()
            try:
                if self.failures:
                    raise self.failures.pop(0)
                return answer(self, request)
            except VitrailError as error:
                status = to_status(error)
                context.set_trailing_metadata(((STATUS_DETAILS, status.SerializeToString()),))
                context.abort(CODES[status.code], status.message)

        return grpc.unary_unary_rpc_method_handler(
            handle, request_type.FromString, lambda response: response.SerializeToString()
        )

    def find(self, name: str) -> collection_pb2.Collection:
        if name not in self.collections:
            raise NotFound(f"no collection {name!r}")
        return self.collections[name]

    def create(self, request: Any) -> Message:
        if request.name in self.collections:
            raise AlreadyExists(f"{request.name!r} is there")
        made = collection_pb2.Collection(
            name=request.name,
            uid=len(self.collections) + 1,
            dimension=request.dimension or 4,
            metric=request.metric,
            embedder=request.embedder or ("" if request.dimension else "default"),
            space="" if request.dimension and not request.embedder else self.space,
            attributes=request.attributes,
            train_at=request.train_at,
            thumbnails=request.thumbnails,
            keep_images=request.keep_images,
            index=request.index,
        )
        self.collections[request.name] = made
        return collection_pb2.CreateCollectionResponse(collection=made)

    def update(self, request: Any) -> Message:
        found = self.find(request.name)
        for name in ("train_at", "thumbnails"):
            if request.HasField(name):
                setattr(found, name, getattr(request, name))
        for name, kind in request.attributes.items():
            if name in self.refused_attributes:
                raise InvalidArgument("a name has letters", field=f"attributes.{name}")
            found.attributes[name] = kind
        if request.HasField("index"):
            found.index.CopyFrom(request.index)
        return collection_pb2.UpdateCollectionResponse(collection=found)

    def drop(self, request: Any) -> Message:
        self.find(request.name)
        del self.collections[request.name]
        return collection_pb2.DeleteCollectionResponse()

    def stats(self, request: Any) -> Message:
        partition = collection_pb2.PartitionStats(
            shard=0, address="127.0.0.1:7001", metrics_address="127.0.0.1:9091", reachable=True, state="exact",
            records=len(self.records[request.name]), tail=3, seq=self.seq, recipe="Flat", nprobe=8,
            index=collection_pb2.IndexStats(
                reason="few records", rerank_factor=10, recall=0.96875, samples=200, real_samples=150,
                dead_rows=77, index_bytes=5 * 1024**2, disk_bytes=3 * 1024**3,
                curve=[collection_pb2.RecallPoint(nprobe=4, rerank_factor=2.5, recall=0.75, seconds=0.5)],
            ),
        )  # fmt: skip
        return collection_pb2.GetCollectionStatsResponse(
            collection=self.find(request.name),
            records=len(self.records[request.name]),
            seq=self.seq,
            partitions=[partition, collection_pb2.PartitionStats(shard=1)],
        )

    def purge(self, request: Any) -> Message:
        self.find(request.name)
        self.calls_to_purge -= 1
        remains = [collection_pb2.PurgeRemains(where="127.0.0.1:7001", why="is to compact")]
        return collection_pb2.PurgeCollectionResponse(
            seq=request.seq or 7,
            done=self.calls_to_purge <= 0,
            remains=remains if self.calls_to_purge > 0 else [],
            notes=["backups"],
        )

    def upsert(self, request: Any) -> Message:
        schema = self.find(request.collection).attributes
        rows = from_bytes(request.vectors.data, request.vectors.dimension or 1)
        errors = []
        for index, given in enumerate(request.records):
            try:
                vector = finite(rows[index]) if request.HasField("vectors") else content(given)
            except InvalidArgument as error:
                errors.append(item_error(index, given.id, error))
                continue
            for name, value in given.attributes.items():
                if name not in schema:
                    schema[name] = KINDS[str(value.WhichOneof("kind"))]
            self.seq += 1
            self.records[request.collection][given.id] = record_pb2.Record(
                id=given.id,
                vector=types_pb2.Vector(data=to_bytes(vector)),
                attributes=given.attributes,
                uri=given.uri,
                seq=self.seq,
                content_hash=hashlib.sha256(given.image).digest() if given.image else given.content_hash,
                thumbnail=given.thumbnail,
            )
        return record_pb2.UpsertRecordsResponse(seq=self.seq, errors=errors)

    def get(self, request: Any) -> Message:
        self.find(request.collection)
        if request.id not in self.records[request.collection]:
            raise NotFound(f"no record {request.id!r}")
        return record_pb2.GetRecordResponse(record=self.records[request.collection][request.id])

    def list(self, request: Any) -> Message:
        self.find(request.collection).uid += self.renumbers
        ids = sorted(id for id in self.records[request.collection] if id > request.page_token)
        page = ids[: min(request.page_size, self.page)]
        return record_pb2.ListRecordsResponse(
            records=[self.records[request.collection][id] for id in page],
            next_page_token=page[-1] if len(page) < len(ids) else "",
        )

    def delete(self, request: Any) -> Message:
        """By ids, or all of them where there is a filter."""
        if request.filter:
            request.ids.extend(self.records[request.collection])
        gone = [self.records[request.collection].pop(id, None) for id in request.ids]
        self.seq += 1
        return record_pb2.DeleteRecordsResponse(seq=self.seq, deleted=sum(one is not None for one in gone))

    def search(self, request: Any) -> Message:
        self.find(request.collection)
        if not 1 <= request.top_k <= 1000:
            raise InvalidArgument(f"{request.top_k} is not 1 to 1,000", field="top_k")
        return self.answer(self.vector(request.collection, request.query), request)

    def search_batch(self, request: Any) -> Message:
        self.find(request.collection)
        rows = from_bytes(request.vectors.data, request.vectors.dimension or 1)
        results = [search_pb2.BatchSearchResult(response=self.answer(row, request)) for row in rows]
        for index, query in enumerate(request.queries):
            try:
                answer = self.answer(self.vector(request.collection, query), request)
                results.append(search_pb2.BatchSearchResult(response=answer))
            except VitrailError as error:
                results.append(search_pb2.BatchSearchResult(error=item_error(index, "", error)))
        return search_pb2.BatchSearchResponse(results=results)

    def vector(self, collection: str, query: search_pb2.Query) -> Any:
        if query.WhichOneof("kind") == "examples":
            return content(query.examples.liked[0])
        if query.WhichOneof("kind") != "record_id":
            return content(query)
        if query.record_id not in self.records[collection]:
            raise NotFound(f"no record {query.record_id!r}")
        return content(self.records[collection][query.record_id])

    def answer(self, vector: Any, request: Any) -> search_pb2.SearchResponse:
        """Every record, by inner product of unit vectors: what is equal scores 1."""
        scored = [(cosine(vector, content(record)), record) for record in self.records[request.collection].values()]
        best = sorted(scored, key=lambda pair: (-pair[0], pair[1].id))[: request.top_k]
        wanted = request.return_fields
        hits = [
            search_pb2.Hit(
                id=record.id,
                score=score,
                attributes=record.attributes if wanted.attributes else {},
                uri=record.uri if wanted.uri else "",
                vector=record.vector if wanted.vector else None,
            )
            for score, record in best
        ]
        return search_pb2.SearchResponse(
            hits=hits,
            coverage=search_pb2.Coverage(
                shards_searched=1, shards_total=2, records_searched=len(scored), records_total=2 * len(scored),
                fraction=0.5, unreachable=[search_pb2.UnreachableShard(shard=1, reason="gone")],
            ),
            index=search_pb2.IndexInfo(exact=True, seq=self.seq, rerank_factor=2.5, recall=0.75, matching=7),
            timings=search_pb2.Timings(total=0.002),
        )  # fmt: skip


ANSWERS: dict[str, tuple[type[Message], Callable[[Fake, Any], Message]]] = {
    "CreateCollection": (collection_pb2.CreateCollectionRequest, Fake.create),
    "GetCollection": (
        collection_pb2.GetCollectionRequest,
        lambda fake, request: collection_pb2.GetCollectionResponse(collection=fake.find(request.name)),
    ),
    "ListCollections": (
        collection_pb2.ListCollectionsRequest,
        lambda fake, _: collection_pb2.ListCollectionsResponse(collections=fake.collections.values()),
    ),
    "UpdateCollection": (collection_pb2.UpdateCollectionRequest, Fake.update),
    "DeleteCollection": (collection_pb2.DeleteCollectionRequest, Fake.drop),
    "PurgeCollection": (collection_pb2.PurgeCollectionRequest, Fake.purge),
    "GetCollectionStats": (collection_pb2.GetCollectionStatsRequest, Fake.stats),
    "UpsertRecords": (record_pb2.UpsertRecordsRequest, Fake.upsert),
    "GetRecord": (record_pb2.GetRecordRequest, Fake.get),
    "ListRecords": (record_pb2.ListRecordsRequest, Fake.list),
    "DeleteRecords": (record_pb2.DeleteRecordsRequest, Fake.delete),
    "Search": (search_pb2.SearchRequest, Fake.search),
    "BatchSearch": (search_pb2.BatchSearchRequest, Fake.search_batch),
}
CODES = {code.value[0]: code for code in grpc.StatusCode}


def content(message: Any) -> Any:
    """The vector of whatever carries an image or a vector."""
    if message.vector.data:
        return np.frombuffer(message.vector.data, FLOAT32)
    if not message.image.startswith(MAGIC):
        raise InvalidArgument("not an image", field="image")
    return np.frombuffer(hashlib.sha256(message.image).digest()[:8], "<i2").astype(np.float32)


def finite(vector: Any) -> Any:
    if not np.isfinite(vector).all():
        raise InvalidArgument("has components that are not finite", field="vector")
    return vector


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def item_error(index: int, id: str, error: VitrailError) -> types_pb2.ItemError:
    return types_pb2.ItemError(index=index, id=id, code=error.code, field=error.field, message=error.message)


@contextmanager
def serving() -> Iterator[Fake]:
    """A fake coordinator at `address`, until the block ends."""
    fake = Fake()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[fake], options=OPTIONS)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()
