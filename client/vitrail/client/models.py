"""What goes into the SDK and what comes out of it: plain frozen values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitrail.client.images import ImageLike
from vitrail.client.vectors import VectorLike
from vitrail.rpc.attributes import AttributeValue

Metric: TypeAlias = Literal["cosine", "inner_product", "euclidean"]
"""How two vectors compare. A score is larger for better in all; Euclidean: minus the squared distance."""

AttributeType: TypeAlias = Literal["string", "integer", "float", "boolean", "timestamp", "strings"]

TextMethod: TypeAlias = Literal["shared_space", "class_names"]

Included: TypeAlias = Literal["attributes", "uri", "vector", "thumbnail"]
"""What may come with each hit besides its id and score."""

Example: TypeAlias = str | ImageLike | VectorLike
"""An example for a search: a string is the id of a record, a `Path`, bytes, a PIL image or an array of two or
three dimensions is an image, an array of one dimension is a vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What is written: an id of the caller's own, and an image or a vector.

    Without either, an existing record keeps its vector and changes only its attributes and uri.

    Attributes:
        id: 1 to 512 bytes of UTF-8.
        image: A path, bytes, a PIL image, an array or a tensor; see `ImageLike`.
        vector: [d] of any numeric type, for collections whose callers bring vectors.
        attributes: They replace those of an earlier record of this id.
        uri: Where the original is, for people and programs to find it.
        fills: The `seq` of a pending record: it gets the vector in the version that is named, and nothing else of
            it changes. Refused where it was written or filled since, or is of another image.
    """

    id: str
    image: ImageLike | None = None
    vector: VectorLike | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    uri: str | None = None
    fills: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredRecord:
    """What the store holds of a record.

    Attributes:
        id: The caller's own.
        vector: [d] float32; None where it was not asked for, or is pending.
        attributes: By name.
        uri: Where the original is, or None.
        seq: Its place in the collection's log.
        content_hash: SHA-256 of the encoded image; empty where a vector was given.
        thumbnail: A small JPEG, where the collection keeps them and it was asked for.
        updated: When it was last written, in UTC.
        pending: Whether its vector in this version of the collection is still to be made.
        image: The encoded image, where the collection keeps them and it was asked for.
    """

    id: str
    vector: NDArray[np.float32] | None
    attributes: dict[str, AttributeValue]
    uri: str | None
    seq: int
    content_hash: bytes
    thumbnail: bytes | None
    updated: datetime
    pending: bool = False
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    """What was wrong with one item of a batch. Its neighbours are not affected.

    Attributes:
        index: Position in what the caller gave, from 0.
        id: The record's id, or empty for a query.
        code: A gRPC status code (3 is INVALID_ARGUMENT), as `InvalidArgument.code`.
        field: What of the item is wrong ("image", "vector"), or empty.
        message: For people.
    """

    index: int
    id: str
    code: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """What became of the records given to `upsert`.

    Attributes:
        seq: The collection's sequence number once they were written; 0 where none was.
        errors: One for each record that was left out, in the order in which they were given.
        mark: What the store left beside `seq`: together they are known to no other history of it.
    """

    seq: int
    errors: tuple[ItemError, ...]
    mark: int = 0


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What became of the ids, or of the filter, given to `delete`.

    Attributes:
        seq: The collection's sequence number once they were deleted; 0 where none was.
        deleted: How many existed.
        mark: As in `UpsertResult`.
    """

    seq: int
    deleted: int
    mark: int = 0


Written: TypeAlias = int | UpsertResult | DeleteResult
"""A write that a search must see: its result, or its `seq` alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What to look for, for `search_batch`: exactly one of an image, a vector, `like`, or examples.

    Attributes:
        image: A path, bytes, a PIL image, an array or a tensor; see `ImageLike`.
        vector: [d] of any numeric type.
        like: The id of a record; it is left out of the hits itself.
        liked: Examples to be near to, combined with `disliked` by Rocchio's formula.
        disliked: Examples to be away from.
        text: What is to be seen, in words.
    """

    image: ImageLike | None = None
    vector: VectorLike | None = None
    like: str | None = None
    liked: Sequence[Example] = ()
    disliked: Sequence[Example] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A record that was found.

    Attributes:
        id: The record's.
        score: Larger is better. Cosine: -1 to 1. Euclidean: minus the squared distance.
        attributes: By name; empty where they were not asked for.
        uri: Where the original is, or None.
        vector: [d] float32, where it was asked for.
        thumbnail: A small JPEG, where it was asked for and the collection keeps them.
    """

    id: str
    score: float
    attributes: dict[str, AttributeValue]
    uri: str | None = None
    vector: NDArray[np.float32] | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The share of shards and of live records that an answer really searched.

    Attributes:
        fraction: Records searched over the last known number of records, 0 to 1.
        unreachable: Why shards did not answer, by their number.
    """

    shards_searched: int
    shards_total: int
    records_searched: int
    records_total: int
    fraction: float
    unreachable: dict[int, str]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """How an answer was found.

    Attributes:
        trained: Every shard that was asked searched a trained index.
        exact: Every record was compared, on every shard.
        nprobe: The largest number of lists that a shard probed; 0 where exact.
        version: Changes with each trained index that a shard swaps in.
        space: The embedding space of the collection.
        seq: The smallest sequence number applied, over the shards that answered.
        rerank_factor: Candidates that were compared exactly, as a multiple of `top_k`: the largest of a shard.
        recall: What the partitions have measured for these parameters on sampled queries without a filter, the
            smallest of a shard; 1 where exact, 0 where not yet measured.
        matching: With a filter, how many records met it, over the shards that answered.
    """

    trained: bool
    exact: bool
    nprobe: int
    version: str
    space: str
    seq: int
    rerank_factor: float = 0.0
    recall: float = 0.0
    matching: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went on the server, in seconds.

    Attributes:
        decode: Turning image bytes into pixels.
        embed_wait: Waiting for the device.
        embed: Turning pixels into a vector.
        search_wait: Waiting for the batch before.
        fanout: From asking the shards until the last one answered that was waited for.
        shard: The longest time that a shard spent searching.
        merge: Bringing the shards' hits together.
        total: From arrival to answer.
    """

    decode: float
    embed_wait: float
    embed: float
    search_wait: float
    fanout: float
    shard: float
    merge: float
    total: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Attributes:
        hits: Best first: by score, then by id.
        coverage: How much of the collection was searched.
        index: How it was searched.
        timings: How long that took.
        text_method: How a text became a vector: "shared_space" where the embedder was trained on images and texts,
            "class_names" where the names of the classes that it knows stand between. None for other queries.
    """

    hits: tuple[Hit, ...]
    coverage: Coverage
    index: IndexInfo
    timings: Timings
    text_method: TextMethod | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of images or texts.

    Attributes:
        vectors: float32 [n, d], in the order given; a row of NaN for an item that was wrong.
        embedder: The name of what made them.
        space: The fingerprint of their embedding space.
        errors: What was wrong with single items.
    """

    vectors: NDArray[np.float32]
    embedder: str
    space: str
    errors: tuple[ItemError, ...] = ()


BatchResults: TypeAlias = list[SearchResult | ItemError]
"""One a query, in order."""


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How the partitions of a collection are to build and search their trained index.

    What is None, each partition chooses from its records, the dimension and its memory budget, and measures.

    Attributes:
        components: Dimensions that the PCA keeps.
        lists: Lists that the vectors are divided among.
        code_bytes: Bytes of a vector's code in RAM.
        bits: Bits of one part of the code: 4 (fast) or 8 (more exact).
        nprobe: Lists that a search probes where it does not say.
        rerank_factor: Candidates that it compares exactly, as a multiple of `top_k`.
        target_recall: The recall that searches are to have where they do not ask for another; 0.95 where None.
    """

    components: int | None = None
    lists: int | None = None
    code_bytes: int | None = None
    bits: int | None = None
    nprobe: int | None = None
    rerank_factor: float | None = None
    target_recall: float | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of records that share one embedding space, one metric and one schema.

    Attributes:
        name: Unique among the collections there are.
        uid: Immutable and never reused.
        dimension: Of its vectors.
        metric: How its vectors compare.
        embedder: What turns images into vectors; empty where callers bring vectors.
        space: The embedder's fingerprint; empty where callers bring vectors.
        attributes: The type of each attribute, declared or fixed by its first value.
        train_at: Live records of one shard from which on its partition trains itself.
        thumbnails: Whether a small JPEG of each image is kept.
        created: In UTC.
        index: What is not left to the partitions to choose.
        version: Of the collections of this name, which one it is, from 1.
        serves: Whether it is the one that the name alone stands for.
        keep_images: Whether the bytes of images are kept, so that other versions can be filled from them.
    """

    name: str
    uid: int
    dimension: int
    metric: Metric
    embedder: str
    space: str
    attributes: dict[str, AttributeType]
    train_at: int
    thumbnails: bool
    created: datetime
    index: IndexOptions = IndexOptions()
    version: int = 1
    serves: bool = True
    keep_images: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """What the store holds of one version of a collection.

    Attributes:
        collection: Its definition.
        records: Live records, the pending ones included.
        pending: Those whose vector is still to be made.
        seq: The last sequence number of its log.
    """

    collection: Collection
    records: int
    pending: int
    seq: int


@dataclass(frozen=True, slots=True)
class FillReport:
    """What became of the pending records of a version.

    Attributes:
        filled: How many got their vector.
        errors: One for each that did not, by `id`; their `index` is 0.
    """

    filled: int
    errors: tuple[ItemError, ...]


@dataclass(frozen=True, slots=True)
class RecallPoint:
    """What a partition would find with other parameters, and how long one query would take it, in seconds."""

    nprobe: int
    rerank_factor: float
    recall: float
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexStats:
    """What one partition has in RAM and on disk, and how well it finds.

    Attributes:
        reason: Why the recipe is what it is, for people.
        rerank_factor: Candidates compared exactly by default, as a multiple of `top_k`.
        recall: Recall@10 of the default parameters against exact search, over the latest sampled queries.
        samples: How many queries that is the mean of; 0 where it was not yet measured.
        real_samples: How many of them were callers' own; the others are records of the partition.
        curve: What other parameters would find, cheapest first.
        dead_rows: Rows that were deleted or replaced and still take room.
        index_bytes: Of the trained index, in RAM.
        disk_bytes: Of all files.
    """

    reason: str = ""
    rerank_factor: float = 0.0
    recall: float = 0.0
    samples: int = 0
    real_samples: int = 0
    curve: tuple[RecallPoint, ...] = ()
    dead_rows: int = 0
    index_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """What one shard holds of a collection.

    Attributes:
        shard: Its number, from 0; that of replicas is the same.
        shards: Of how many it is one.
        digest: Of all records that it held at `seq`; that of replicas at the same `seq` is the same, and those of all
            shards of a layout add up to the same. 16 hexadecimal digits, empty where it is not known.
        quarantined: Whether its process is not asked, since it held other records than the store.
        address: Where the shard is reached.
        metrics_address: Where its metrics are served.
        reachable: False where it does not answer; the figures are then the last known ones.
        state: "exact", "training" (exact until that ends), or "trained".
        records: Live records, in main and tail together.
        tail: Rows searched exactly, since they are not yet in the trained index.
        seq: The log is applied up to here.
        busy: What runs in the background ("training"), or empty.
        version: Changes with each trained index that is swapped in.
        recipe: The trained index in FAISS's factory language, or "Flat".
        nprobe: Lists probed by default; 0 where exact.
        index: Its size, and how well it finds.
    """

    shard: int
    address: str
    metrics_address: str
    reachable: bool
    state: str
    records: int
    tail: int
    seq: int
    busy: str
    version: str
    recipe: str
    nprobe: int
    index: IndexStats = IndexStats()
    shards: int = 0
    digest: str = ""
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class ShardProcess:
    """One process of a shard.

    Attributes:
        address: Where it is reached.
        shard: Which shard it is, from 0.
        shards: Of how many; 0 where it was never heard.
        failure: Why it is not asked, or empty.
        behind: Numbers of the log, over all collections, that it has not reached.
        records: Live records, over all collections.
        metrics_address: Where its metrics are served.
        head: Numbers of the log, over all collections.
        version: Of Vitrail there; empty where it was never told.
        protocol: Which it speaks to the other processes; 0 where it was never told.
    """

    address: str
    shard: int
    shards: int
    failure: str
    behind: int
    records: int
    metrics_address: str
    head: int
    version: str = ""
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a cluster.

    Attributes:
        serving: How many shards the layout has that is searched.
        wanted: How many are to serve; 0 where nobody said.
        processes: By layout, then by shard.
    """

    serving: int
    wanted: int
    processes: tuple[ShardProcess, ...]


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What the store and every shard hold of a collection.

    Attributes:
        collection: Its definition.
        records: Live records in the store.
        seq: The last sequence number of its log.
        partitions: One a shard process that the coordinator knows, reachable or not.
        metrics_address: Where the metrics of the coordinator that answered are, as HOST:PORT.
        pending: Of the records, those whose vector is still to be made.
    """

    collection: Collection
    records: int
    seq: int
    partitions: tuple[PartitionStats, ...]
    metrics_address: str
    pending: int = 0


@dataclass(frozen=True, slots=True)
class PurgeRemains:
    """Where something of a deleted record may be left: in "the store", or at the address of a shard process."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What is left of the records of a collection that were deleted or replaced.

    Attributes:
        seq: Those up to this sequence number are meant.
        done: Nothing is left in the store and in shards.
        remains: What may still hold something, where it is not done.
        notes: What nobody looked into.
    """

    seq: int
    done: bool
    remains: tuple[PurgeRemains, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileError:
    """A file that `index` could not read, or that the server refused."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of a folder given to `index`.

    Attributes:
        indexed: Files written as records.
        skipped: Files that the collection already had, with the same content.
        failed: Files that are not in the collection, and why.
        seconds: From start to end.
        seq: The collection's sequence number after the last write; 0 where nothing was written.
    """

    indexed: int
    skipped: int
    failed: tuple[FileError, ...]
    seconds: float
    seq: int


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What `export` wrote.

    Attributes:
        records: How many are in the file.
        bytes: How large it is.
        seconds: From start to end.
    """

    records: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a file given to `import_`.

    Attributes:
        collection: The name of the collection that the records are in.
        imported: Rows written as records.
        failed: Rows that are not in the collection.
        errors: What was wrong with the first 1,000 of them; `index` is the row of the file, from 0.
        seconds: From start to end.
        seq: The collection's sequence number after the last write; 0 where nothing was written.
    """

    collection: str
    imported: int
    failed: int
    errors: tuple[ItemError, ...]
    seconds: float
    seq: int
