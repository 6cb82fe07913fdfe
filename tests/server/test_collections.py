from typing import Any

import pytest

from tests.server.fakes import SOON, FakeShard, in_time, serving
from vitrail.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, VitrailError
from vitrail.server.collections import CollectionService
from vitrail.server.embedding import Pipelines
from vitrail.server.journal import Journal
from vitrail.server.purging import Purging
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import (
    CreateCollectionRequest,
    DeleteCollectionRequest,
    GetCollectionRequest,
    GetCollectionStatsRequest,
    IndexOptions,
    IndexStats,
    ListCollectionsRequest,
    UpdateCollectionRequest,
)
from vitrail.v1.types_pb2 import AttributeType, Metric, Value

CONTEXT: Any = None  # none of these methods asks it for anything
INTEGER, STRING = AttributeType.ATTRIBUTE_TYPE_INTEGER, AttributeType.ATTRIBUTE_TYPE_STRING


class NoEmbedder:
    """What a collection learns of its embedder, without one."""

    name, space, dimension = "tiny", "tiny:1", 8


class NoPipeline:
    embedder = NoEmbedder()


@pytest.fixture
def service(journal: Journal) -> CollectionService:
    pipeline: Any = NoPipeline()
    return CollectionService(
        journal, Pipelines([pipeline]), Topology([]), SOON, "127.0.0.1:9090", Purging(journal, Topology([]), 1)
    )


async def create(service: CollectionService, name: str = "c", **fields: Any) -> Any:
    request = CreateCollectionRequest(name=name, **({"dimension": 2} | fields))
    return (await service.CreateCollection(request, CONTEXT)).collection


@pytest.mark.parametrize(
    ("fields", "dimension", "embedder", "space"),
    [
        ({"dimension": 2}, 2, "", ""),
        ({"dimension": 0}, 8, "tiny", "tiny:1"),
        ({"dimension": 0, "embedder": "tiny"}, 8, "tiny", "tiny:1"),
        ({"dimension": 8, "embedder": "tiny"}, 8, "tiny", "tiny:1"),
    ],
)
async def test_what_a_collection_is_made_of(
    service: CollectionService, fields: dict[str, Any], dimension: int, embedder: str, space: str
) -> None:
    """Vectors that callers bring, or the server's embedder where neither is named; cosine where no metric is."""
    made = await create(service, **fields)
    assert (made.dimension, made.embedder, made.space) == (dimension, embedder, space)
    assert (made.metric, made.train_at, made.thumbnails) == (Metric.METRIC_COSINE, 10_000, False)
    assert made.uid > 0
    assert (await service.GetCollection(GetCollectionRequest(name="c"), CONTEXT)).collection == made
    assert list((await service.ListCollections(ListCollectionsRequest(), CONTEXT)).collections) == [made]


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"name": "a b"}, InvalidArgument, "name"),
        ({"dimension": 1}, InvalidArgument, "dimension"),
        ({"dimension": -1}, InvalidArgument, "dimension"),
        ({"dimension": 2, "embedder": "tiny"}, InvalidArgument, "dimension"),
        ({"dimension": 0, "embedder": "other"}, InvalidArgument, "embedder"),
        ({"metric": 99}, InvalidArgument, "metric"),
        ({"train_at": 38}, InvalidArgument, "train_at"),
        ({"train_at": -1}, InvalidArgument, "train_at"),
        ({"index": IndexOptions(lists=0)}, InvalidArgument, "index.lists"),
        ({"index": IndexOptions(components=3)}, InvalidArgument, "index.components"),
        ({"attributes": {"n": 99}}, InvalidArgument, "attributes.n"),
        ({"name": "taken"}, AlreadyExists, ""),
    ],
)
async def test_what_is_no_collection(
    service: CollectionService, fields: dict[str, Any], kind: type[VitrailError], field: str
) -> None:
    """It is refused with its field, and nothing is made."""
    await create(service, "taken")
    with pytest.raises(kind) as caught:
        await create(service, **fields)
    assert caught.value.field == field
    assert len((await service.ListCollections(ListCollectionsRequest(), CONTEXT)).collections) == 1


async def test_what_is_given_is_changed(service: CollectionService) -> None:
    """And nothing else; types are added to the schema."""
    made = await create(service, train_at=50, attributes={"n": INTEGER})
    request = UpdateCollectionRequest(name="c", thumbnails=True, attributes={"n": INTEGER, "m": STRING})
    changed = (await service.UpdateCollection(request, CONTEXT)).collection
    made.thumbnails = True
    made.attributes["m"] = STRING
    assert changed == made
    assert (await service.GetCollection(GetCollectionRequest(name="c"), CONTEXT)).collection == made


async def test_index_options(service: CollectionService) -> None:
    """They are kept as they were given, and replaced as a whole."""
    made = await create(service, index=IndexOptions(lists=64, nprobe=8))
    assert made.index == IndexOptions(lists=64, nprobe=8)
    request = UpdateCollectionRequest(name="c", index=IndexOptions(target_recall=0.75))
    assert (await service.UpdateCollection(request, CONTEXT)).collection.index == IndexOptions(target_recall=0.75)
    request = UpdateCollectionRequest(name="c", thumbnails=True)
    assert (await service.UpdateCollection(request, CONTEXT)).collection.index == IndexOptions(target_recall=0.75)
    found = (await service.GetCollection(GetCollectionRequest(name="c"), CONTEXT)).collection
    assert found.index == IndexOptions(target_recall=0.75)


async def test_index_options_that_do_not_fit_the_collection(service: CollectionService) -> None:
    """Components are bounded by its dimension, which is an embedder's own; nothing changes."""
    await create(service, dimension=0, index=IndexOptions(components=8))
    request = UpdateCollectionRequest(name="c", index=IndexOptions(components=9))
    with pytest.raises(InvalidArgument) as caught:
        await service.UpdateCollection(request, CONTEXT)
    assert caught.value.field == "index.components"
    found = (await service.GetCollection(GetCollectionRequest(name="c"), CONTEXT)).collection
    assert found.index == IndexOptions(components=8)


async def test_what_a_partition_says_of_its_index(journal: Journal) -> None:
    """It comes with the stats as the shard gave it."""
    index = IndexStats(reason="64 lists", recall=0.96875, samples=100, dead_rows=3, index_bytes=5, disk_bytes=7)
    shard = FakeShard(index_stats=index)
    async with serving(shard):
        topology = Topology([shard.address])
        service = CollectionService(
            journal, Pipelines([]), topology, SOON, "127.0.0.1:9090", Purging(journal, topology, 1)
        )
        await create(service)
        stats = await service.GetCollectionStats(GetCollectionStatsRequest(name="c"), CONTEXT)
        await topology.close()
    assert [partition.index for partition in stats.partitions] == [index]


async def test_a_change_keeps_what_a_write_has_fixed_meanwhile(service: CollectionService, journal: Journal) -> None:
    """A type that was committed after the catalog was read is neither lost nor changed."""
    made = await create(service)
    journal.store.write([Write(made.uid, [NewRecord("a", {"n": Value(integer_value=1)}, vector=b"12345678")])])
    request = UpdateCollectionRequest(name="c", attributes={"n": STRING})
    with pytest.raises(FailedPrecondition) as caught:
        await service.UpdateCollection(request, CONTEXT)
    assert caught.value.field == "attributes.n"
    changed = await service.UpdateCollection(UpdateCollectionRequest(name="c", train_at=50), CONTEXT)
    assert dict(changed.collection.attributes) == {"n": INTEGER}
    assert dict(journal.catalog.get("c").attributes) == {"n": INTEGER}


async def test_what_is_not_there(service: CollectionService) -> None:
    """It is NotFound for every method, with the field."""
    for method, request in (
        (service.GetCollection, GetCollectionRequest(name="c")),
        (service.UpdateCollection, UpdateCollectionRequest(name="c")),
        (service.DeleteCollection, DeleteCollectionRequest(name="c")),
        (service.GetCollectionStats, GetCollectionStatsRequest(name="c")),
    ):
        ask: Any = method
        with pytest.raises(NotFound) as caught:
            await ask(request, CONTEXT)
        assert caught.value.field == "name"


async def test_counts_of_the_store(service: CollectionService, journal: Journal) -> None:
    """They are those of the last commit, with no shard to ask."""
    made = await create(service)
    records = [NewRecord(name, {}, vector=b"12345678") for name in "abc"]
    await journal.write(Write(made.uid, records), in_time())
    await journal.write(Write(made.uid, deletes=["a", "never"]), in_time())
    stats = await service.GetCollectionStats(GetCollectionStatsRequest(name="c"), CONTEXT)
    assert (stats.records, stats.seq, stats.metrics_address) == (2, 4, "127.0.0.1:9090")


async def test_a_deleted_collection_is_gone_with_its_records(service: CollectionService, journal: Journal) -> None:
    """One of the same name is another, and empty."""
    made = await create(service)
    await journal.write(Write(made.uid, [NewRecord("a", {}, vector=b"12345678")]), in_time())
    await service.DeleteCollection(DeleteCollectionRequest(name="c"), CONTEXT)
    assert list((await service.ListCollections(ListCollectionsRequest(), CONTEXT)).collections) == []
    again = await create(service)
    assert again.uid > made.uid
    assert (await service.GetCollectionStats(GetCollectionStatsRequest(name="c"), CONTEXT)).records == 0
