"""The client."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc
from google.protobuf.message import Message

from vitrail.client import operations, requests
from vitrail.client.calls import Call, Done, Method, Operation, advance
from vitrail.client.filling import fill
from vitrail.client.folder import index_folder
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
from vitrail.client.parts import Part
from vitrail.client.requests import SearchOptions
from vitrail.client.retries import Retries
from vitrail.client.sources import source_of
from vitrail.client.transport import serialize, translate
from vitrail.client.vectors import MatrixLike, VectorLike
from vitrail.rpc import tracing
from vitrail.rpc.attributes import AttributeValue
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import VitrailError

T = TypeVar("T")


class Client:
    """A connection to a coordinator. It may be shared by threads; close it, or use it as a context.

        with Client("localhost:50051") as client:
            client.create_collection("clothes")
            client.index("clothes", "photos/", progress=True)
            result = client.search("clothes", image="query.jpg")

    Methods raise the classes under `VitrailError`. What is wrong with single items of a batch is returned, never
    raised.

    Args:
        address: "host:port" of the coordinator.
        timeout: Seconds for each call that a method makes, its repetitions included. Methods that take much
            at once (`upsert`, `delete`, `list`, `search_batch`, `index`, `export`, `import_`) make as many calls as
            it needs.
        retries: How often a call is repeated where the server is unreachable or asks for it.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 6) -> None:
        self.address = address
        self._timeout = timeout
        self._retries = Retries(retries)
        self._channel = grpc.insecure_channel(address, options=CLIENT_OPTIONS)
        self._stubs: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {}

    def close(self) -> None:
        """Close the connection. Calls still in flight fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_collection(
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
        """Create a collection.

        Args:
            name: Unique among the collections there are.
            embedder: What turns images into vectors. Where neither it nor `dimension` is given, the server's
                default.
            dimension: Of the vectors, for a collection whose callers bring vectors.
            metric: How vectors compare.
            attributes: Types by name. What is not declared is fixed by its first value.
            train_at: Live records of one shard from which on its partition trains itself.
            thumbnails: Keep a small JPEG of each image, to be returned with hits.
            index: What is not to be left to the partitions to choose about their index.
            keep_images: Keep the bytes of images in the store, so that another version can be filled from them.
            exist_ok: Return a collection of that name, whatever it is like, where there is one.

        Raises:
            AlreadyExists: There is one of that name.
        """
        request = requests.create_collection_request(
            name, embedder, dimension, metric, attributes, train_at, thumbnails, index, keep_images
        )
        return self._run(operations.create_collection(request, exist_ok))

    def get_collection(self, name: str) -> Collection:
        """Get the definition of a collection."""
        return self._run(operations.get_collection(name))

    def list_collections(self) -> Sequence[Collection]:
        """Get the definitions of all collections."""
        return self._run(operations.list_collections())

    def update_collection(
        self,
        name: str,
        *,
        train_at: int | None = None,
        thumbnails: bool | None = None,
        attributes: Mapping[str, AttributeType] | None = None,
        index: IndexOptions | None = None,
        keep_images: bool | None = None,
    ) -> Collection:
        """Change what is given; attributes are added to the schema.

        `index` replaces what was given before as a whole, and is built into the index at its next training.
        Images are kept from now on; where they are not to be, those that were kept are deleted.
        """
        request = requests.update_collection_request(name, train_at, thumbnails, attributes, index, keep_images)
        return self._run(operations.update_collection(request))

    def delete_collection(self, name: str) -> None:
        """Delete a collection and all its records."""
        self._run(operations.delete_collection(name))

    def create_version(
        self,
        name: str,
        *,
        embedder: str | None = None,
        dimension: int | None = None,
        metric: Metric | None = None,
        train_at: int | None = None,
        index: IndexOptions | None = None,
    ) -> Collection:
        """Make another version of a collection, in another embedding space, beside the one that serves.

        It has the same records; their vectors are pending until `fill` makes them, or `upsert` brings them (see
        `Record.fills`). From then on what is written or deleted by the name is committed to all versions at once.
        "name@2" names the second version, to search it before it serves, wherever a collection is named.

        Args:
            name: Of the collection.
            embedder: As in `create_collection`.
            dimension: As in `create_collection`.
            metric: That of the version that serves where not given; so is `train_at`.
            train_at: Live records of one shard from which on its partition trains itself.
            index: What is not to be left to the partitions to choose about their index.
        """
        request = requests.create_version_request(name, embedder, dimension, metric, train_at, index)
        return self._run(operations.create_version(request))

    def versions(self, name: str) -> Sequence[Version]:
        """See all versions of a collection, and how many of their vectors are pending."""
        return self._run(operations.versions(name))

    def activate_version(self, name: str, version: int, *, timeout: float | None = None) -> Collection:
        """Have the name of a collection stand for another version from now on.

        Both are written to all the while, so that it can be taken back.

        Raises:
            FailedPrecondition: Vectors of it are pending.
            Unavailable: The shards did not apply its log and train its index within the timeout.
        """
        return self._run(operations.activate_version(name, version), timeout)

    def delete_version(self, name: str, version: int) -> None:
        """Delete a version of a collection that does not serve."""
        self._run(operations.delete_version(name, version))

    def fill(
        self, name: str, folder: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> FillReport:
        """Make the pending vectors of a version: from the images that the collection keeps, or from a folder.

        Goes on until a round fills none, so that it takes in what is written meanwhile.

        Args:
            name: Of the collection, with the version: "clothes@2".
            folder: Where the images are, under the ids of their records, as `index` gives them.
            timeout: Seconds for each call, instead of the client's.
        """
        return self._run(fill(name, folder), timeout)

    def upsert(
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
        """Write records, or ids with their vectors; what has the same id is replaced.

        They are sent in as many calls as their bytes need. An error that is raised may leave the records of earlier
        calls written; to give all of them again is safe.

        Args:
            name: Of the collection.
            records: Any number, taken as they are sent; a generator will do.
            ids: For the rows of `vectors`: the faster way where there are many.
            vectors: [n, d] of any numeric type.
            attributes: For the rows of `vectors`, if any.
            space: The embedding space the vectors were made in, to be refused where it is not the collection's.
            timeout: Seconds for each call, instead of the client's.
        """
        return self._run(operations.upsert(name, records, ids, vectors, attributes, space), timeout)

    def get(
        self, name: str, id: str, *, include: Iterable[Literal["image"]] = (), timeout: float | None = None
    ) -> StoredRecord:
        """Get one record, with its vector; "image" in `include` gives the bytes that the collection keeps.

        Raises:
            NotFound: There is no such collection or record.
        """
        return self._run(operations.get(name, id, include), timeout)

    def list(
        self,
        name: str,
        *,
        include: Iterable[Literal["vector", "thumbnail"]] = (),
        pending: bool = False,
        timeout: float | None = None,
    ) -> Iterator[StoredRecord]:
        """Go through all records by id, ascending, a page at a time.

        Args:
            name: Of the collection.
            include: "vector" and "thumbnail", which are not sent otherwise.
            pending: Only those whose vector is still to be made.
            timeout: Seconds for each page, instead of the client's.
        """
        token, more = "", True
        while more:
            records, token = self._run(operations.list_page(name, token, include, pending), timeout)
            yield from records
            more = bool(token)

    def delete(
        self,
        name: str,
        ids: Iterable[str] | None = None,
        *,
        filter: str | None = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete records by their ids, or all that meet a filter.

        By filter, every shard must have applied what was written before the call; that is waited for within the
        timeout. A record that is written again meanwhile stays.

        Args:
            name: Of the collection.
            ids: Any number. Ids that do not exist are not an error.
            filter: A condition on attributes, as in `search`, instead of ids.
            timeout: Seconds for each call, instead of the client's.

        Raises:
            Unavailable: By filter, a shard could not be asked or did not catch up: nothing was deleted.
        """
        return self._run(operations.delete(name, ids, filter), timeout)

    def search(
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
        """Find the records nearest to exactly one of: an image, a text, a vector, a record, or examples.

        Args:
            name: Of the collection.
            image: A path, bytes, a PIL image, an array [H, W, 3] or a tensor; see `ImageLike`.
            text: What is to be seen, in words. The result's `text_method` says how well it can be understood.
            vector: [d] of any numeric type.
            like: The id of a record; it is left out of the hits itself.
            liked: Examples to be near to: an id, an image (a `Path`, bytes, PIL, an array) or a vector each.
            disliked: Examples to be away from.
            top_k: How many hits, 1 to 1,000.
            nprobe: Lists of the trained index to probe. Chosen by the partition where not given.
            rerank_factor: Candidates that are compared exactly, as a multiple of `top_k`.
            exact: Compare with every record.
            target_recall: The share of the true nearest records that is to be found, above 0 and below 1: each
                partition takes the cheapest parameters that reach it. Instead of `nprobe` and `rerank_factor`.
            filter: Only records whose attributes meet this condition, SQL-like: "category = 'hat' AND price < 80".
            min_score: Only hits that score at least this.
            min_coverage: Raise `Unavailable` rather than answer from a smaller share of the records, 0 to 1.
            min_seq: Find what was written up to here: an `UpsertResult` or a `DeleteResult`, or the `seq` of one. Waits
                until the shards have it, and raises `Unavailable` where the time is over before. Given the result,
                not its number alone, raises `FailedPrecondition` where the store went back to before that write.
            include: What comes with each hit: "attributes", and "uri", "vector", "thumbnail", which the
                store is asked for.
            space: The embedding space the vector was made in, to be refused where it is not the collection's.
            timeout: Seconds for the call, instead of the client's.
        """
        options = SearchOptions(
            top_k, nprobe, rerank_factor, exact, target_recall, filter, min_score, min_coverage, min_seq, include
        )
        query = Query(image, vector, like, liked, disliked, text)
        return self._run(operations.search(name, query, options, space), timeout)

    def embed(
        self,
        *,
        images: Iterable[ImageLike] | None = None,
        texts: Iterable[str] | None = None,
        embedder: str | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """Have images or texts turned into vectors, and nothing written.

        Args:
            images: See `ImageLike`.
            texts: Instead of images.
            embedder: The name of one that the server has; its default where not given.
            timeout: Seconds for each call, instead of the client's.
        """
        return self._run(operations.embed(images, texts, embedder), timeout)

    def search_batch(
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
        """Search with many queries at once: of any kind, or all images, or vectors [n, d].

        Returns:
            One a query, in order: a `SearchResult`, or an `ItemError` for a query that is wrong.
        """
        options = SearchOptions(
            top_k, nprobe, rerank_factor, exact, target_recall, filter, min_score, min_coverage, min_seq, include
        )
        return self._run(operations.search_batch(name, queries, images, vectors, options, space), timeout)

    def index(
        self,
        name: str,
        folder: str | os.PathLike[str],
        *,
        part: tuple[int, int] = (1, 1),
        progress: bool = False,
        timeout: float | None = None,
    ) -> IndexReport:
        """Write the image files of a folder or a bucket, nested ones too, as records.

        The id is the path below the folder, with "/" between its parts; the first folder of that path becomes
        the attribute "category"; the uri is the file's ("file:///…", "s3://…"). Hidden files are left out. Files
        whose content the collection already has under their id are skipped, so that a run which was interrupted
        resumes. A file that cannot be read, or is refused, is listed in the report.

        Args:
            name: Of the collection, which must exist.
            folder: Where the files are: a path, or a URL that fsspec knows (s3:// needs the package s3fs, gs:// gcsfs).
            part: Index one part of how many, (3, 16): by a hash of the id, so that workers with a part each do all
                of it once.
            progress: Draw a bar on standard error.
            timeout: Seconds for each call, instead of the client's.

        Raises:
            InvalidArgument: There is no such folder or part, or nothing here can open the URL. Nothing was asked.
        """

        def known() -> Iterator[StoredRecord]:
            return self.list(name, timeout=timeout)

        def send(records: Iterable[Record]) -> UpsertResult:
            return self.upsert(name, records, timeout=timeout)

        return index_folder(source_of(folder), Part(*part), known, send, progress)

    def export(
        self, name: str, path: str | os.PathLike[str], *, progress: bool = False, timeout: float | None = None
    ) -> ExportReport:
        """Write a collection to a Parquet file, its definition too; needs `vitrail[parquet]`.

        The file is written beside its name and renamed when it is complete. What its columns are, and what holds
        while others write, is told in `vitrail.client.parquet`.

        Args:
            name: Of the collection.
            path: Of the file; one that is there is replaced.
            progress: Draw a bar on standard error.
            timeout: Seconds for each call, instead of the client's.

        Raises:
            FailedPrecondition: The schema grew meanwhile, or the name now stands for another collection.
            OSError: The file cannot be written.
        """
        from vitrail.client.parquet.exporting import export  # an extra

        return self._run(export(name, Path(path), progress), timeout)

    def import_(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        progress: bool = False,
        timeout: float | None = None,
    ) -> ImportReport:
        """Write the rows of a Parquet file as records; needs `vitrail[parquet]`.

        A file of `export` makes its collection where there is none. Any other one needs the columns `id` (strings)
        and `vector` (lists of floats), and a collection that exists; its attributes are the fields of a struct
        `attributes`, or else its further columns. What has the same id is replaced, so a run that was interrupted
        can be repeated.

        Args:
            path: Of the file.
            name: Of the collection, instead of the one that the file was exported from.
            progress: Draw a bar on standard error.
            timeout: Seconds for each call, instead of the client's.

        Raises:
            InvalidArgument: It is no file of records, or is damaged. Unless that shows further in, nothing was written.
            EmbeddingSpaceMismatch: Its vectors are of another space than the collection's. Nothing was written.
            NotFound: There is no such collection, and the file does not say how to make it.
            OSError: The file cannot be read.
        """
        from vitrail.client.parquet.importing import import_  # an extra

        return self._run(import_(Path(path), name, progress), timeout)

    def purge(
        self, name: str, *, timeout: float = 300.0, on_progress: Callable[[PurgeReport], None] | None = None
    ) -> PurgeReport:
        """Leave nothing of records that were deleted or replaced before the call, in the store and in shards.

        The store's files and the partitions are written anew, which takes as long as copying them; searches go on
        meanwhile, writes may wait. A shard process that is away is built anew when it comes back.

        Args:
            name: Of the collection; all versions of it are purged.
            timeout: Seconds until what is left is reported, whatever it is.
            on_progress: Is given each report on the way.
        """
        return self._run(operations.purge(name, timeout, on_progress))

    def stats(self, name: str) -> CollectionStats:
        """See what the store and every shard hold of a collection."""
        return self._run(operations.stats(name))

    def shards(self) -> Shards:
        """See the shard processes, and how many shards serve and are to serve."""
        return self._run(operations.shards())

    def set_shards(self, count: int) -> None:
        """Have another number of shards serve, once their processes have caught up with the log.

        Whoever runs the cluster starts them: this starts none.
        """
        self._run(operations.set_shards(count))

    def _run(self, operation: Operation[T], timeout: float | None = None) -> T:
        each = self._timeout if timeout is None else timeout
        with closing(operation):  # where Ctrl-C ends a call, what the operation has open ends with it
            step = advance(operation, None)
            while not isinstance(step, Done):
                step = advance(operation, self._outcome(step, each))
        return step.result

    def _outcome(self, call: Call[Any], timeout: float) -> Message | VitrailError:
        """Make a call, and repeat it as long as that may help."""
        deadline = Deadline.after(timeout)
        attempt = 0
        while True:
            try:
                response: Message = self._stub(call.method)(
                    call.request, timeout=deadline.remaining, metadata=tracing.metadata()
                )
            except grpc.RpcError as failure:
                error = translate(failure, self.address)
            else:
                return response
            pause = self._retries.pause(error, attempt, deadline.remaining)
            if pause is None:
                return error
            time.sleep(pause)
            attempt += 1

    def _stub(self, method: Method[Any]) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        if method.path not in self._stubs:
            self._stubs[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=serialize,
                response_deserializer=method.response.FromString,
            )
        return self._stubs[method.path]
