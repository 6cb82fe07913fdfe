"""The SDK of Vitrail, an image search engine.

from vitrail.client import Client, Record

with Client("localhost:50051") as client:
    client.create_collection("clothes")
    client.upsert("clothes", [Record(id="a", image="a.jpg", attributes={"category": "hat"})])
    result = client.search("clothes", image="query.jpg", top_k=10, filter="category = 'hat'")
    result = client.search("clothes", text="a red hat")
"""

from vitrail.client.async_client import AsyncClient
from vitrail.client.client import Client
from vitrail.client.models import (
    Collection,
    CollectionStats,
    Coverage,
    DeleteResult,
    Embeddings,
    ExportReport,
    FileError,
    FillReport,
    Hit,
    ImportReport,
    IndexInfo,
    IndexOptions,
    IndexReport,
    IndexStats,
    ItemError,
    PartitionStats,
    PurgeRemains,
    PurgeReport,
    Query,
    RecallPoint,
    Record,
    SearchResult,
    ShardProcess,
    Shards,
    StoredRecord,
    Timings,
    UpsertResult,
    Version,
)
from vitrail.rpc.errors import (
    AlreadyExists,
    DeadlineExceeded,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    VitrailError,
)

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "Collection",
    "CollectionStats",
    "Coverage",
    "DeadlineExceeded",
    "DeleteResult",
    "EmbeddingSpaceMismatch",
    "Embeddings",
    "ExportReport",
    "FailedPrecondition",
    "FileError",
    "FillReport",
    "Hit",
    "ImportReport",
    "IndexInfo",
    "IndexOptions",
    "IndexReport",
    "IndexStats",
    "InvalidArgument",
    "ItemError",
    "NotFound",
    "PartitionStats",
    "PurgeRemains",
    "PurgeReport",
    "Query",
    "RecallPoint",
    "Record",
    "ResourceExhausted",
    "SearchResult",
    "ShardProcess",
    "Shards",
    "StoredRecord",
    "Timings",
    "Unavailable",
    "UpsertResult",
    "Version",
    "VitrailError",
]
