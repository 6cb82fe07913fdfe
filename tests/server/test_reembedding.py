"""Images in the versions of a collection: embedders of two spaces, the real decoding, the real store."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.fakes import SOON, running
from tests.server.images import jpeg, picture
from vitrail.rpc.errors import EmbeddingSpaceMismatch, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from vitrail.server import records
from vitrail.server.collections import CollectionService
from vitrail.server.decode import ImageLimits
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedding import Pipeline, Pipelines, Workers
from vitrail.server.journal import Journal
from vitrail.server.purging import Purging
from vitrail.server.queries import stored_vector
from vitrail.server.records import RecordService
from vitrail.server.topology import Topology
from vitrail.v1.collection_pb2 import (
    ActivateVersionRequest,
    Collection,
    CreateCollectionRequest,
    CreateVersionRequest,
    ListVersionsRequest,
)
from vitrail.v1.record_pb2 import (
    FillRecordsRequest,
    FillRecordsResponse,
    GetRecordRequest,
    RecordInput,
    UpsertRecordsRequest,
    UpsertRecordsResponse,
)
from vitrail.v1.types_pb2 import Value, Vector

PHOTO, OTHER = jpeg(picture(96, 64)), jpeg(picture(64, 96))


class Soon:
    """A caller with time left."""

    def time_remaining(self) -> float:
        return SOON


CONTEXT: Any = Soon()


SMALL = Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)


@dataclass(frozen=True)
class Tiny:
    """Says which space an image was embedded in: the vector of all is one of the axes."""

    name: str
    dimension: int
    axis: int
    normalised: bool = True
    preprocessing: Preprocessing = SMALL

    @property
    def space(self) -> str:
        return f"{self.name}:1"

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.eye(self.dimension, dtype=np.float32)[self.axis], (len(pixels), 1))


FIRST, SECOND = Tiny("first", 4, 0), Tiny("second", 6, 5)


@dataclass
class World:
    """A coordinator with some embedders."""

    journal: Journal
    records: RecordService
    collections: CollectionService

    async def upsert(self, *records: RecordInput, name: str = "c") -> UpsertRecordsResponse:
        return await self.records.UpsertRecords(UpsertRecordsRequest(collection=name, records=records), CONTEXT)

    async def fill(self, **fields: Any) -> FillRecordsResponse:
        return await self.records.FillRecords(FillRecordsRequest(collection="c@2", **fields), CONTEXT)

    async def version(self, embedder: str = "second", **fields: Any) -> Collection:
        request = CreateVersionRequest(name="c", embedder=embedder, **fields)
        return (await self.collections.CreateVersion(request, CONTEXT)).collection

    async def activate(self, version: int) -> None:
        await self.collections.ActivateVersion(ActivateVersionRequest(name="c", version=version), CONTEXT)

    def axes(self, uid: int) -> dict[str, int | None]:
        """Which axis the vector of each record is, None where it is pending."""
        found = self.journal.store.list(uid, "", 100)
        dimension = {1: FIRST.dimension, 2: SECOND.dimension}[uid]
        return {each.id: int(stored_vector(each.vector, dimension).argmax()) if each.vector else None for each in found}


@contextlib.asynccontextmanager
async def coordinator(journal: Journal, *embedders: Tiny) -> AsyncIterator[World]:
    workers, limits = Workers(threads=1), ImageLimits(10**6, 10**6)
    made = [Pipeline(each, workers, limits, batch=8, capacity=64) for each in embedders]
    async with contextlib.AsyncExitStack() as stack:
        for pipeline in made:
            await stack.enter_async_context(running(pipeline.batcher))
        stack.callback(workers.close)
        pipelines, topology = Pipelines(made), Topology([])
        yield World(
            journal,
            RecordService(journal, pipelines, topology, SOON),
            CollectionService(journal, pipelines, topology, SOON, "", Purging(journal, topology, 1)),
        )


@pytest.fixture
async def world(journal: Journal) -> AsyncIterator[World]:
    """One that has both, with a collection "c" of the first that keeps images, in which "a" is."""
    async with coordinator(journal, FIRST, SECOND) as world:
        await world.collections.CreateCollection(CreateCollectionRequest(name="c", keep_images=True), CONTEXT)
        await world.upsert(RecordInput(id="a", image=PHOTO))
        yield world


async def test_an_image_is_embedded_for_each_version(world: World) -> None:
    """What is written once there are two is pending in neither; what was there is filled from its image."""
    made = await world.version()
    assert (made.embedder, made.space, made.dimension, made.keep_images) == ("second", "second:1", 6, True)
    assert not (await world.upsert(RecordInput(id="b", image=OTHER))).errors
    assert (world.axes(1), world.axes(2)) == ({"a": 0, "b": 0}, {"a": None, "b": 5})
    assert (await world.fill()).filled == 1
    assert world.axes(2) == {"a": 5, "b": 5}
    await world.activate(2)
    assert not (await world.upsert(RecordInput(id="c", image=OTHER))).errors
    assert world.axes(1) == dict.fromkeys("abc", 0)
    assert world.axes(2) == dict.fromkeys("abc", 5)


async def test_an_embedder_that_is_not_here(world: World, journal: Journal) -> None:
    """Another coordinator's version is pending for what is written through this one; once it serves, no image is."""
    await world.version()
    await world.fill()
    async with coordinator(journal, FIRST) as other:
        assert not (await other.upsert(RecordInput(id="b", image=OTHER))).errors
        assert world.axes(2) == {"a": 5, "b": None}
        with pytest.raises(EmbeddingSpaceMismatch):
            await other.fill()
        await world.fill()
        await world.activate(2)
        (error,) = (await other.upsert(RecordInput(id="b", image=OTHER))).errors
        assert error.code == FailedPrecondition.code
    assert world.axes(2) == {"a": 5, "b": 5}


async def test_filling_goes_page_by_page_past_what_it_cannot(world: World) -> None:
    """A record whose image is not kept, or cannot be read by now, is told by its id; the others are filled."""
    names = [f"r{number}" for number in range(5)]
    await world.upsert(*(RecordInput(id=name, image=PHOTO) for name in names))
    await world.upsert(RecordInput(id="r1", vector=Vector(values=[1, 0, 0, 0], space="first:1")))
    await world.version()
    filled, errors, token, pages = 0, dict[str, int](), "", 0
    while pages == 0 or token:
        page = await world.fill(page_size=2, page_token=token)
        filled, pages, token = filled + page.filled, pages + 1, page.next_page_token
        errors |= {error.id: error.code for error in page.errors}
    assert (filled, errors, pages) == (5, {"r1": NotFound.code}, 4)
    assert world.axes(2) == {"a": 5, "r1": None} | dict.fromkeys(["r0", "r2", "r3", "r4"], 5)
    for size in (-1, 101):
        with pytest.raises(InvalidArgument):
            await world.fill(page_size=size)


async def test_no_more_images_are_read_than_can_be_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones come in more pages, one at least in each."""
    monkeypatch.setattr(records, "FILL_BYTES", 2 * len(PHOTO))
    await world.upsert(*(RecordInput(id=name, image=PHOTO) for name in "bcde"))
    await world.version()
    filled, token = list[int](), ""
    while not filled or token:
        page = await world.fill(page_token=token)
        filled.append(page.filled)
        token = page.next_page_token
    assert filled == [2, 2, 1]
    assert set(world.axes(2).values()) == {5}


async def test_kept_images_are_given_back(world: World) -> None:
    """To who asks for them, from whichever version; attributes alone leave them as they are."""
    await world.version()
    await world.upsert(RecordInput(id="a", attributes={"n": Value(integer_value=1)}))
    for name in ("c", "c@1", "c@2"):
        request = GetRecordRequest(collection=name, id="a", include_image=True)
        record = (await world.records.GetRecord(request, CONTEXT)).record
        assert (record.image, record.pending, record.attributes["n"].integer_value) == (PHOTO, name == "c@2", 1)
    record = (await world.records.GetRecord(GetRecordRequest(collection="c", id="a"), CONTEXT)).record
    assert record.image == b""


async def test_a_version_that_went_meanwhile(world: World, journal: Journal) -> None:
    """A write that began when it served is to be made again, for the one that does; so is one before a flip."""
    await world.version()
    await world.fill()
    journal.store.activate_version("c", 2)  # by another coordinator: this one does not know it yet
    vector = RecordInput(id="b", vector=Vector(values=[1, 0, 0, 0]))
    with pytest.raises(Unavailable) as flipped:
        await world.upsert(vector)
    journal.store.delete_version("c", 1)
    with pytest.raises(Unavailable) as deleted:
        await world.upsert(vector)
    assert flipped.value.retry_after
    assert deleted.value.retry_after
    (error,) = (await world.upsert(vector)).errors
    assert (error.code, error.message) == (InvalidArgument.code, "has 4 dimensions, not 6")
    with pytest.raises(NotFound):
        await world.upsert(vector, name="c@1")
    journal.store.delete_collection(2)
    with pytest.raises(NotFound):
        await world.upsert(RecordInput(id="b", image=OTHER))


async def test_what_is_told_of_versions(world: World) -> None:
    """Each with what is pending; those that are not there have a name, not a place in a list."""
    await world.version(metric=2, train_at=77)
    versions = (await world.collections.ListVersions(ListVersionsRequest(name="c"), CONTEXT)).versions
    assert [(each.collection.version, each.records, each.pending, each.seq) for each in versions] == [
        (1, 1, 0, 1),
        (2, 1, 1, 2),
    ]
    assert (versions[1].collection.metric, versions[1].collection.train_at) == (2, 77)
    for name, kind in (("d", NotFound), ("c@2", InvalidArgument)):
        with pytest.raises(kind):
            await world.collections.ListVersions(ListVersionsRequest(name=name), CONTEXT)
    with pytest.raises(NotFound) as caught:
        await world.activate(3)
    assert caught.value.field == "version"
    with pytest.raises(InvalidArgument) as other:
        await world.version("third")
    assert other.value.field == "embedder"
