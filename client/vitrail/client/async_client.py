"""The asynchronous client: the methods of `Client`, awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc
from google.protobuf.message import Message

from vitrail.client import operations, requests
from vitrail.client.calls import Call, Done, Method, Operation, advance
from vitrail.client.client import Client
from vitrail.client.filling import fill
from vitrail.client.images import ImageLike
from vitrail.client.models import (
    AttributeType,
    BatchResults,
    Collection,
    CollectionStats,
    DeleteResult,
    Embeddings,
    Example,
    ExportReport,
    FillReport,
    ImportReport,
    Included,
    IndexOptions,
    IndexReport,
    Metric,
    PurgeReport,
    Query,
    Record,
    SearchResult,
    Shards,
    StoredRecord,
    UpsertResult,
    Version,
    Written,
)
from vitrail.client.requests import SearchOptions
from vitrail.client.retries import Retries
from vitrail.client.transport import serialize, translate
from vitrail.client.vectors import MatrixLike, VectorLike
from vitrail.rpc import tracing
from vitrail.rpc.attributes import AttributeValue
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import VitrailError

T = TypeVar("T")


class AsyncClient:
    """A connection to a coordinator for asyncio; see `Client`, whose methods these are.

        async with AsyncClient("localhost:50051") as client:
            result = await client.search("clothes", image="query.jpg")

    It may be made anywhere, and belongs to the event loop of its first call. Images are read and encoded in threads.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 6) -> None:
        self.address = address
        self._timeout = timeout
        self._retries = Retries(retries)
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    async def close(self) -> None:
        """Close the connection. Calls still in flight fail."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def create_collection(
        self,
        name: str,
        *,
        embedder: str | None = None,
        dimension: int | None = None,
        metric: Metric = "cosine",
        attributes: Mapping[str, AttributeType] | None = None,
        train_at: int = 10_000,
        thumbnails: bool = False,
        index: IndexOptions | None = None,
        keep_images: bool = False,
        exist_ok: bool = False,
    ) -> Collection:
        """See `Client.create_collection`."""
        request = requests.create_collection_request(
            name, embedder, dimension, metric, attributes, train_at, thumbnails, index, keep_images
        )
        return await self._run(operations.create_collection(request, exist_ok))

    async def get_collection(self, name: str) -> Collection:
        """See `Client.get_collection`."""
        return await self._run(operations.get_collection(name))

    async def list_collections(self) -> Sequence[Collection]:
        """See `Client.list_collections`."""
        return await self._run(operations.list_collections())

    async def update_collection(
        self,
        name: str,
        *,
        train_at: int | None = None,
        thumbnails: bool | None = None,
        attributes: Mapping[str, AttributeType] | None = None,
        index: IndexOptions | None = None,
        keep_images: bool | None = None,
    ) -> Collection:
        """See `Client.update_collection`."""
        request = requests.update_collection_request(name, train_at, thumbnails, attributes, index, keep_images)
        return await self._run(operations.update_collection(request))

    async def delete_collection(self, name: str) -> None:
        """See `Client.delete_collection`."""
        await self._run(operations.delete_collection(name))

    async def create_version(
        self,
        name: str,
        *,
        embedder: str | None = None,
        dimension: int | None = None,
        metric: Metric | None = None,
        train_at: int | None = None,
        index: IndexOptions | None = None,
    ) -> Collection:
        """See `Client.create_version`."""
        request = requests.create_version_request(name, embedder, dimension, metric, train_at, index)
        return await self._run(operations.create_version(request))

    async def versions(self, name: str) -> Sequence[Version]:
        """See `Client.versions`."""
        return await self._run(operations.versions(name))

    async def activate_version(self, name: str, version: int, *, timeout: float | None = None) -> Collection:
        """See `Client.activate_version`."""
        return await self._run(operations.activate_version(name, version), timeout)

    async def delete_version(self, name: str, version: int) -> None:
        """See `Client.delete_version`."""
        await self._run(operations.delete_version(name, version))

    async def fill(
        self, name: str, folder: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> FillReport:
        """See `Client.fill`."""
        return await self._run(fill(name, folder), timeout, in_thread=True)

    async def upsert(
        self,
        name: str,
        records: Iterable[Record] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: MatrixLike | None = None,
        attributes: Sequence[Mapping[str, AttributeValue]] | None = None,
        space: str | None = None,
        timeout: float | None = None,
    ) -> UpsertResult:
        """See `Client.upsert`. The records are taken in a thread."""
        operation = operations.upsert(name, records, ids, vectors, attributes, space)
        return await self._run(operation, timeout, in_thread=True)

    async def get(
        self, name: str, id: str, *, include: Iterable[Literal["image"]] = (), timeout: float | None = None
    ) -> StoredRecord:
        """See `Client.get`."""
        return await self._run(operations.get(name, id, include), timeout)

    async def list(
        self,
        name: str,
        *,
        include: Iterable[Literal["vector", "thumbnail"]] = (),
        pending: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[StoredRecord]:
        """See `Client.list`; use it with `async for`."""
        token, more = "", True
        while more:
            records, token = await self._run(operations.list_page(name, token, include, pending), timeout)
            for record in records:
                yield record
            more = bool(token)

    async def delete(
        self,
        name: str,
        ids: Iterable[str] | None = None,
        *,
        filter: str | None = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """See `Client.delete`."""
        return await self._run(operations.delete(name, ids, filter), timeout)

    async def search(
        self,
        name: str,
        *,
        image: ImageLike | None = None,
        text: str | None = None,
        vector: VectorLike | None = None,
        like: str | None = None,
        liked: Sequence[Example] = (),
        disliked: Sequence[Example] = (),
        top_k: int = 10,
        nprobe: int | None = None,
        rerank_factor: float | None = None,
        exact: bool = False,
        target_recall: float | None = None,
        filter: str | None = None,
        min_score: float | None = None,
        min_coverage: float = 0.0,
        min_seq: Written = 0,
        include: Iterable[Included] = ("attributes",),
        space: str | None = None,
        timeout: float | None = None,
    ) -> SearchResult:
        """See `Client.search`."""
        options = SearchOptions(
            top_k, nprobe, rerank_factor, exact, target_recall, filter, min_score, min_coverage, min_seq, include
        )
        operation = operations.search(name, Query(image, vector, like, liked, disliked, text), options, space)
        return await self._run(operation, timeout, in_thread=image is not None or len(liked) > 0)

    async def embed(
        self,
        *,
        images: Iterable[ImageLike] | None = None,
        texts: Iterable[str] | None = None,
        embedder: str | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """See `Client.embed`."""
        return await self._run(operations.embed(images, texts, embedder), timeout, in_thread=images is not None)

    async def search_batch(
        self,
        name: str,
        queries: Iterable[Query] | None = None,
        *,
        images: Iterable[ImageLike] | None = None,
        vectors: MatrixLike | None = None,
        top_k: int = 10,
        nprobe: int | None = None,
        rerank_factor: float | None = None,
        exact: bool = False,
        target_recall: float | None = None,
        filter: str | None = None,
        min_score: float | None = None,
        min_coverage: float = 0.0,
        min_seq: Written = 0,
        include: Iterable[Included] = ("attributes",),
        space: str | None = None,
        timeout: float | None = None,
    ) -> BatchResults:
        """See `Client.search_batch`."""
        options = SearchOptions(
            top_k, nprobe, rerank_factor, exact, target_recall, filter, min_score, min_coverage, min_seq, include
        )
        operation = operations.search_batch(name, queries, images, vectors, options, space)
        return await self._run(operation, timeout, in_thread=True)

    async def index(
        self,
        name: str,
        folder: str | os.PathLike[str],
        *,
        part: tuple[int, int] = (1, 1),
        progress: bool = False,
        timeout: float | None = None,
    ) -> IndexReport:
        """See `Client.index`, which runs in a thread on a connection of its own."""
        each = self._timeout if timeout is None else timeout
        # Leaving the block closes that connection, which is how a cancelled index stops.
        with Client(self.address, timeout=each, retries=self._retries.limit) as client:
            return await asyncio.to_thread(client.index, name, folder, part=part, progress=progress)

    async def export(
        self, name: str, path: str | os.PathLike[str], *, progress: bool = False, timeout: float | None = None
    ) -> ExportReport:
        """See `Client.export`. The file is written in a thread."""
        from vitrail.client.parquet.exporting import export  # an extra

        return await self._run(export(name, Path(path), progress), timeout, in_thread=True)

    async def import_(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        progress: bool = False,
        timeout: float | None = None,
    ) -> ImportReport:
        """See `Client.import_`. The file is read in a thread."""
        from vitrail.client.parquet.importing import import_  # an extra

        return await self._run(import_(Path(path), name, progress), timeout, in_thread=True)

    async def purge(
        self, name: str, *, timeout: float = 300.0, on_progress: Callable[[PurgeReport], None] | None = None
    ) -> PurgeReport:
        """See `Client.purge`."""
        return await self._run(operations.purge(name, timeout, on_progress))

    async def stats(self, name: str) -> CollectionStats:
        """See `Client.stats`."""
        return await self._run(operations.stats(name))

    async def shards(self) -> Shards:
        """See `Client.shards`."""
        return await self._run(operations.shards())

    async def set_shards(self, count: int) -> None:
        """See `Client.set_shards`."""
        await self._run(operations.set_shards(count))

    async def _run(self, operation: Operation[T], timeout: float | None = None, *, in_thread: bool = False) -> T:
        """Drive an operation; in a thread between its calls, where it reads files or encodes images."""
        each = self._timeout if timeout is None else timeout
        outcome: Message | VitrailError | None = None
        try:
            while True:
                if in_thread:
                    step = await asyncio.to_thread(advance, operation, outcome)
                else:
                    step = advance(operation, outcome)
                if isinstance(step, Done):
                    return step.result
                outcome = await self._outcome(step, each)
        finally:  # where the caller is cancelled, what the operation has open ends with it
            with suppress(ValueError):  # a thread is at a step of it still, and the last to hold it
                operation.close()

    async def _outcome(self, call: Call[Any], timeout: float) -> Message | VitrailError:
        """Make a call, and repeat it as long as that may help."""
        deadline = Deadline.after(timeout)
        attempt = 0
        while True:
            try:
                response: Message = await self._stub(call.method)(
                    call.request, timeout=deadline.remaining, metadata=tracing.metadata()
                )
            except grpc.aio.AioRpcError as failure:
                error = translate(failure, self.address)
            else:
                return response
            pause = self._retries.pause(error, attempt, deadline.remaining)
            if pause is None:
                return error
            await asyncio.sleep(pause)
            attempt += 1

    def _stub(self, method: Method[Any]) -> "grpc.aio.UnaryUnaryMultiCallable[Any, Any]":
        if self._channel is None:  # made here, since it belongs to the running event loop
            self._channel = grpc.aio.insecure_channel(self.address, options=CLIENT_OPTIONS)
        if method.path not in self._stubs:
            self._stubs[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=serialize,
                response_deserializer=method.response.FromString,
            )
        return self._stubs[method.path]
