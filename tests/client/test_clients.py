"""What both clients promise, against a coordinator that can fail on demand."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client.fakes import Fake
from tests.client.pictures import photo

from vitrail.client import (
    AlreadyExists,
    AsyncClient,
    Client,
    DeadlineExceeded,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    IndexOptions,
    IndexStats,
    InvalidArgument,
    ItemError,
    NotFound,
    Query,
    RecallPoint,
    Record,
    ResourceExhausted,
    SearchResult,
    Unavailable,
    VitrailError,
)
from vitrail.rpc.channel import MAX_MESSAGE_BYTES

BUSY = ResourceExhausted("queue full", retry_after=0.01)
MIB = 1024 * 1024


async def filled(client: Any, ids: str = "abc") -> None:
    """A collection "c" with a photo for each letter."""
    await client.create_collection("c")
    await client.upsert("c", [Record(id, image=photo(ord(id)), attributes={"letter": id}) for id in ids])


async def test_collections_live_and_die(client: Any) -> None:
    """A collection is made with what was asked for, changed, listed, and is gone once deleted."""
    made = await client.create_collection(
        "c", dimension=8, metric="euclidean", attributes={"price": "float"}, train_at=50, thumbnails=True
    )
    assert (made.name, made.dimension, made.metric, made.train_at) == ("c", 8, "euclidean", 50)
    assert made.attributes == {"price": "float"}
    assert (await client.update_collection("c", train_at=60)).train_at == 60
    assert await client.get_collection("c") == (await client.list_collections())[0]
    await client.delete_collection("c")
    with pytest.raises(NotFound):
        await client.get_collection("c")


async def test_index_options(client: Any) -> None:
    """They come back as they were given, and what was not given is None."""
    given = IndexOptions(lists=64, bits=8, rerank_factor=2.5, target_recall=0.75)
    assert (await client.create_collection("c", index=given)).index == given
    assert (await client.update_collection("c", train_at=60)).index == given
    assert (await client.update_collection("c", index=IndexOptions(nprobe=8))).index == IndexOptions(nprobe=8)
    assert (await client.create_collection("d")).index == IndexOptions()


async def test_deleting_by_filter(client: Any, fake: Fake) -> None:
    """It is one call, and never both or neither."""
    await filled(client)
    assert (await client.delete("c", filter="letter IS NOT NULL")).deleted == 3
    assert [request.filter for request in fake.requests["DeleteRecordsRequest"]] == ["letter IS NOT NULL"]
    for wrong in ({}, {"ids": ["a"], "filter": "letter = 'a'"}):
        with pytest.raises(InvalidArgument) as refused:
            await client.delete("c", **wrong)
        assert refused.value.field == "ids"
    assert len(fake.requests["DeleteRecordsRequest"]) == 1


async def test_exist_ok_returns_what_is_there(client: Any) -> None:
    """Creating twice is an error, unless the caller says that it is not."""
    made = await client.create_collection("c", train_at=50)
    with pytest.raises(AlreadyExists):
        await client.create_collection("c")
    assert await client.create_collection("c", exist_ok=True) == made


async def test_records_are_found_read_and_deleted(client: Any) -> None:
    """What is written is found by its own image, can be read back, listed, and deleted."""
    await filled(client)
    result = await client.search("c", image=photo(ord("b")), top_k=2)
    assert result.hits[0].id == "b"
    assert result.hits[0].score == pytest.approx(1.0)
    assert result.hits[0].attributes == {"letter": "b"}
    assert (result.coverage.fraction, result.coverage.unreachable) == (0.5, {1: "gone"})
    assert (await client.get("c", "a")).vector.shape == (4,)
    deleted = await client.delete("c", ["a", "never there"])
    assert deleted.deleted == 1
    assert [record.id async for record in client.list("c")] == ["b", "c"]


async def test_listing_goes_through_all_pages(client: Any, fake: Fake) -> None:
    """Every record comes once, however small the server's pages are."""
    await filled(client, "abcdefg")
    fake.page = 3
    assert "".join([record.id async for record in client.list("c")]) == "abcdefg"
    assert len(fake.requests["ListRecordsRequest"]) == 3


@pytest.mark.parametrize(
    ("include", "expected"),
    [((), ({}, None, False)), (("attributes",), ({"letter": "a"}, None, False)), (("vector",), ({}, None, True))],
)
async def test_hits_carry_what_was_asked_for(client: Any, include: Any, expected: Any) -> None:
    """Attributes, uri and vector come with the hits only where they are included."""
    await filled(client)
    hit = (await client.search("c", like="a", include=include)).hits[0]
    assert (hit.attributes, hit.uri, hit.vector is not None) == expected


async def test_parameters_arrive(client: Any, fake: Fake) -> None:
    """What a caller leaves out is not sent, and what they give is."""
    await filled(client)
    await client.search("c", like="a")
    await client.search("c", like="a", nprobe=3, rerank_factor=2.5, exact=True, min_score=0.0, min_coverage=0.9)
    plain, full = fake.requests["SearchRequest"]
    assert not plain.parameters.HasField("nprobe")
    assert not plain.HasField("min_score")
    assert (full.parameters.nprobe, full.parameters.rerank_factor, full.parameters.exact) == (3, 2.5, True)
    assert full.HasField("min_score")
    assert full.min_coverage == pytest.approx(0.9)
    assert (plain.filter, plain.parameters.HasField("target_recall")) == ("", False)


async def test_filters_arrive(client: Any, fake: Fake) -> None:
    """With a search and with each call of a batch; so does the target recall, and the answer says what came of it."""
    await filled(client)
    result = await client.search("c", like="a", filter="letter = 'a'", target_recall=0.75)
    assert (result.index.rerank_factor, result.index.recall, result.index.matching) == (2.5, 0.75, 7)
    await client.search_batch("c", [Query(like="a")], filter="letter = 'a'", target_recall=0.75)
    await client.search_batch("c", vectors=np.ones((1, 4)), filter="letter = 'a'", target_recall=0.75)
    sent = [*fake.requests["SearchRequest"], *fake.requests["BatchSearchRequest"]]
    assert [(one.filter, one.parameters.target_recall) for one in sent] == [("letter = 'a'", 0.75)] * 3
    with pytest.raises(InvalidArgument) as refused:
        await client.search("c", like="a", filter="letter = '\ud800'")
    assert refused.value.field == "filter"


async def test_examples_arrive(client: Any, fake: Fake) -> None:
    """Liked and disliked examples of every kind travel in order."""
    await filled(client)
    await client.search("c", liked=[photo(), "a"], disliked=[np.ones(4)])
    examples = fake.requests["SearchRequest"][0].query.examples
    assert [example.WhichOneof("kind") for example in examples.liked] == ["image", "record_id"]
    assert [example.WhichOneof("kind") for example in examples.disliked] == ["vector"]


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("0 is not 1 to 1,000", field="top_k"),
        NotFound("no such record"),
        FailedPrecondition("no embedder"),
        EmbeddingSpaceMismatch("another space"),
        ResourceExhausted("too large"),
        DeadlineExceeded("no shard in time"),
        VitrailError("a bug"),
    ],
)
async def test_errors_arrive_as_they_were_raised(client: Any, fake: Fake, error: VitrailError) -> None:
    """Class, message and field survive the wire, and what does not pass is not tried again."""
    fake.failures.append(error)
    with pytest.raises(type(error)) as raised:
        await client.stats("c")
    assert type(raised.value) is type(error)
    assert (raised.value.message, raised.value.field) == (error.message, error.field)
    assert len(fake.requests["GetCollectionStatsRequest"]) == 1


async def test_passing_errors_are_tried_again(client: Any, fake: Fake) -> None:
    """A full queue and an absent store are waited for, as the server says, and the caller sees nothing of it."""
    fake.failures += [BUSY, Unavailable("store down"), BUSY]
    await client.create_collection("c")
    assert len(fake.requests["CreateCollectionRequest"]) == 4


async def test_retries_end(client: Any, fake: Fake) -> None:
    """After six repetitions the error is the caller's, with the delay that the server asked for."""
    fake.failures += [BUSY] * 9
    with pytest.raises(ResourceExhausted) as raised:
        await client.stats("c")
    assert raised.value.retry_after == pytest.approx(0.01)
    assert len(fake.requests["GetCollectionStatsRequest"]) == 7


async def test_no_retry_beyond_the_deadline(client: Any, fake: Fake) -> None:
    """A delay that ends after the deadline is not waited for: the error comes at once."""
    fake.failures.append(ResourceExhausted("queue full", retry_after=30.0))
    started = time.monotonic()
    with pytest.raises(ResourceExhausted):
        await client.search("c", like="a", timeout=10.0)
    assert time.monotonic() - started < 5.0


async def test_a_call_ends_at_its_deadline(client: Any, fake: Fake) -> None:
    """A server that never answers costs no more than the timeout."""
    fake.hang = True
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await client.search("c", like="a", timeout=0.1)
    assert time.monotonic() - started < 10.0


async def test_nobody_there() -> None:
    """An address where nobody listens is Unavailable, and the message names it."""
    with Client("127.0.0.1:1", retries=0) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.list_collections()
    async with AsyncClient("127.0.0.1:1", retries=0) as other:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await other.list_collections()


async def test_a_message_over_the_limit_is_not_sent(client: Any, fake: Fake) -> None:
    """A query that is larger than a message is refused before it travels, and names what is too large."""
    await client.create_collection("c")
    examples = [b"\xff" * (MAX_MESSAGE_BYTES // 2)] * 3
    with pytest.raises(ResourceExhausted, match="a message holds") as refused:
        await client.search("c", liked=examples)
    assert refused.value.field == "query.examples"
    assert not fake.requests["SearchRequest"]


async def test_upsert_is_split_by_bytes_and_errors_keep_their_place(client: Any, fake: Fake) -> None:
    """Calls stay below the limit, and an error's index is the caller's, whichever call it came from."""
    await client.create_collection("c")
    large = photo() + bytes(6 * MIB)
    images = [large, "/no/such/file", large, b"junk", large, photo(1), object(), b""]
    records = [Record(f"r{index}", image=image) for index, image in enumerate(images)]  # type: ignore[arg-type]  # object()
    result = await client.upsert("c", iter(records))
    assert [(error.index, error.id, error.field) for error in result.errors] == [
        (1, "r1", "image"), (3, "r3", "image"), (6, "r6", "image"), (7, "r7", "image"),
    ]  # fmt: skip
    assert {error.code for error in result.errors} == {InvalidArgument.code}
    assert [len(request.records) for request in fake.requests["UpsertRecordsRequest"]] == [3, 3]
    assert sorted(fake.records["c"]) == ["r0", "r2", "r4", "r5"]
    assert result.seq == fake.seq == 4


async def test_upsert_of_packed_vectors(client: Any, fake: Fake) -> None:
    """Ids with an array travel packed, in calls below the limit, each row with its id and attributes."""
    await client.create_collection("c", dimension=1024)
    vectors = np.random.default_rng(0).standard_normal((5000, 1024), np.float32)
    ids = [str(index) for index in range(5000)]
    ids[4999] = ""
    attributes: list[dict[str, Any]] = [{"n": index} for index in range(5000)]
    result = await client.upsert("c", ids=ids, vectors=vectors, attributes=attributes)
    assert [(error.index, error.field) for error in result.errors] == [(4999, "id")]
    requests = fake.requests["UpsertRecordsRequest"]
    assert len(requests) == 2
    assert all(request.ByteSize() < 16 * MIB for request in requests)
    stored = await client.get("c", "4500")
    np.testing.assert_array_equal(stored.vector, vectors[4500])
    assert stored.attributes == {"n": 4500}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "records"),
        ({"records": [], "ids": [], "vectors": np.ones((0, 4))}, "records"),
        ({"ids": ["a"]}, "records"),
        ({"ids": ["a"], "vectors": np.ones((2, 4))}, "ids"),
        ({"ids": ["a"], "vectors": np.ones((1, 4)), "attributes": []}, "attributes"),
        ({"ids": ["a"], "vectors": np.ones(4)}, "vectors"),
        ({"ids": ["a"], "vectors": [["x"]]}, "vectors"),
    ],
)
async def test_wrong_forms_of_upsert(client: Any, given: dict[str, Any], field: str) -> None:
    """Records, or ids with as many vectors: anything else is refused before it travels."""
    with pytest.raises(InvalidArgument) as refused:
        await client.upsert("c", **given)
    assert refused.value.field == field


async def test_nothing_to_do(client: Any, fake: Fake) -> None:
    """Empty input makes no call and is no error."""
    assert (await client.upsert("c", [])).errors == ()
    assert (await client.delete("c", [])).deleted == 0
    assert await client.search_batch("c", vectors=np.ones((0, 4))) == []
    assert not fake.requests


async def test_batches_answer_in_order(client: Any) -> None:
    """One outcome a query, in the caller's order; what is wrong is an error in its place."""
    await filled(client)
    queries = [
        Query(like="b"), Query(image="/no/such"), Query(like="nobody"), Query(image=photo(ord("c"))), Query(),
        Query(image=b"junk"), Query(like="a"),
    ]  # fmt: skip
    results = await client.search_batch("c", queries, top_k=1)
    found = [one.hits[0].id if isinstance(one, SearchResult) else (one.index, one.field) for one in results]
    assert found == ["b", (1, "image"), (2, ""), "c", (4, ""), (5, "image"), "a"]
    assert isinstance(results[2], ItemError)
    assert results[2].code == NotFound.code


async def test_batches_are_split_by_hits(client: Any, fake: Fake) -> None:
    """Queries times top_k stays within 100,000 a call, and the order is kept across calls."""
    await filled(client)
    vectors = np.stack([(await client.get("c", id)).vector for id in "abc"])
    results = await client.search_batch("c", vectors=np.tile(vectors, (50, 1)), top_k=1000, include=())
    assert "".join(one.hits[0].id for one in results) == "abc" * 50
    assert [len(request.vectors.data) // 16 for request in fake.requests["BatchSearchRequest"]] == [100, 50]


async def test_batches_of_images_are_split_by_bytes(client: Any, fake: Fake) -> None:
    """Images of a batch travel in calls of bounded size."""
    await filled(client)
    results = await client.search_batch("c", images=[photo(ord(id)) + bytes(6 * MIB) for id in "abc"], top_k=1)
    assert len(results) == 3
    assert [len(request.queries) for request in fake.requests["BatchSearchRequest"]] == [2, 1]


@pytest.mark.parametrize("given", [{}, {"images": [], "vectors": np.ones((1, 4))}])
async def test_wrong_forms_of_search_batch(client: Any, given: dict[str, Any]) -> None:
    """Queries, images or vectors: exactly one of them."""
    with pytest.raises(InvalidArgument) as refused:
        await client.search_batch("c", **given)
    assert refused.value.field == "queries"


async def test_stats(client: Any) -> None:
    """The store's figures and each shard's, the unreachable ones too."""
    await filled(client)
    stats = await client.stats("c")
    assert (stats.collection.name, stats.records, stats.seq) == ("c", 3, 3)
    first, second = stats.partitions
    assert (first.shard, first.state, first.records, first.tail, first.reachable) == (0, "exact", 3, 3, True)
    assert (second.shard, second.reachable) == (1, False)
    assert first.index == IndexStats(
        reason="few records", rerank_factor=10, recall=0.96875, samples=200, real_samples=150, dead_rows=77,
        index_bytes=5 * MIB, disk_bytes=3072 * MIB, curve=(RecallPoint(4, 2.5, 0.75, 0.5),),
    )  # fmt: skip
    assert second.index == IndexStats()


async def test_a_cancelled_index_stops(fake: Fake, tmp_path: Path) -> None:
    """Cancelling `AsyncClient.index` ends its calls: nothing goes on behind the caller's back."""
    for seed in range(200):
        (tmp_path / f"{seed:03}.png").write_bytes(photo(seed))
    async with AsyncClient(fake.address) as client:
        await client.create_collection("c")
        fake.hang = True
        task = asyncio.create_task(client.index("c", tmp_path))
        await asyncio.to_thread(fake.hanging.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not fake.requests["UpsertRecordsRequest"]


def test_a_client_may_be_made_anywhere(fake: Fake) -> None:
    """An `AsyncClient` made outside of an event loop belongs to the one of its first call."""
    client = AsyncClient(fake.address)

    async def use() -> None:
        async with client:
            assert await client.list_collections() == []

    asyncio.run(use())
