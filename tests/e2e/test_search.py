import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.e2e.photos import jpeg, photos, tiles
from tests.e2e.running import Running, eventually, wait_applied, wait_trained
from tests.shard.rows import best_ids, clustered
from vitrail.client import (
    AlreadyExists,
    AsyncClient,
    Client,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    ItemError,
    NotFound,
    Query,
    Record,
    SearchResult,
)


def results(outcomes: list[SearchResult | ItemError]) -> list[SearchResult]:
    assert all(isinstance(outcome, SearchResult) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, SearchResult)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiles, one folder a photo."""
    folder = tmp_path_factory.mktemp("photos")
    for name, tile in tiles():
        path = folder / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(tile))
    return folder


def test_a_folder_becomes_a_trained_collection_that_finds_edited_photos(
    client: Client, name: str, folder: Path
) -> None:
    """The main job: index a folder, the partitions train themselves, and edits find their originals."""
    client.create_collection(name, train_at=39, thumbnails=True)
    report = client.index(name, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert (report.indexed, report.failed) == (len(files), ())
    stats = wait_trained(client, name)
    assert stats.records == sum(partition.records for partition in stats.partitions) == len(files)
    edits = [jpeg(ImageOps.mirror(Image.open(folder / file)), quality=40) for file in files[::7]]
    found = results(client.search_batch(name, images=edits, top_k=10))
    right = [file in [hit.id for hit in result.hits] for file, result in zip(files[::7], found, strict=True)]
    assert np.mean(right) >= 0.9
    for result in found:
        assert result.index.trained
        assert not result.index.exact
        assert result.coverage.fraction == 1.0
        assert result.index.space == client.get_collection(name).space
    hit = client.search(
        name, image=folder / files[0], top_k=1, include=("attributes", "uri", "thumbnail", "vector")
    ).hits[0]
    assert hit.id == files[0]
    assert hit.attributes == {"category": files[0].split("/")[0]}
    assert hit.uri is not None
    assert hit.uri.endswith(files[0])
    assert Image.open(io.BytesIO(hit.thumbnail or b"")).format == "JPEG"
    assert hit.vector is not None
    assert np.linalg.norm(hit.vector) == pytest.approx(1.0, abs=1e-3)


def test_searching_twice_over_the_same_folder_indexes_nothing_again(client: Client, name: str, folder: Path) -> None:
    """Indexing resumes: what is there with the same content is skipped."""
    client.create_collection(name)
    first = client.index(name, folder / "coffee")
    again = client.index(name, folder / "coffee")
    assert (again.indexed, again.skipped) == (0, first.indexed)


def test_records_like_some_and_unlike_others(client: Client, name: str) -> None:
    """`like` leaves the record itself out; liked and disliked examples are left out and pull and push the rest."""
    client.create_collection(name, dimension=2)
    turns = {f"r{degrees}": np.radians(degrees) for degrees in range(0, 360, 10)}
    vectors = np.array([[np.cos(turn), np.sin(turn)] for turn in turns.values()], np.float32)
    client.upsert(name, ids=list(turns), vectors=vectors)
    wait_applied(client, name)
    assert {hit.id for hit in client.search(name, like="r90", top_k=2).hits} == {"r80", "r100"}
    liked = client.search(name, liked=["r40", "r60"], top_k=1)
    assert liked.hits[0].id == "r50"
    pushed = client.search(name, liked=["r90", vectors[9]], disliked=["r180"], top_k=1)
    # Rocchio: 0.75 × (0, 1) − 0.15 × (−1, 0) points to 78.7 degrees.
    assert pushed.hits[0].id == "r80"
    with pytest.raises(InvalidArgument) as caught:
        client.search(name, disliked=["r90"])
    assert "liked" in caught.value.field


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_vectors_are_found_as_by_hand(client: Client, name: str, metric: str) -> None:
    """For each metric, exact hits and scores equal those of comparing with every record, over both shards."""
    vectors = dict(zip([f"r{n}" for n in range(300)], clustered(300, 12), strict=True))
    client.create_collection(name, dimension=12, metric=metric)  # type: ignore[arg-type]  # from the table above
    client.upsert(name, ids=list(vectors), vectors=np.stack(list(vectors.values())))
    wait_applied(client, name)
    queries = clustered(10, 12, seed=4)
    for query, result in zip(queries, results(client.search_batch(name, vectors=queries, top_k=5)), strict=True):
        assert [hit.id for hit in result.hits] == best_ids(query, vectors, metric, 5)  # type: ignore[arg-type]
        assert result.index.exact
    if metric == "euclidean":
        assert client.search(name, vector=vectors["r7"], top_k=1).hits[0].score == 0.0
        far = client.search(name, vector=vectors["r7"], min_score=-1e-6)
        assert [hit.id for hit in far.hits] == ["r7"]


def test_ties_come_in_the_order_of_their_ids(client: Client, name: str) -> None:
    """Equal scores are ordered by id, whichever shard they come from."""
    client.create_collection(name, dimension=4)
    ids = [f"r{n:02}" for n in range(20)]
    client.upsert(name, ids=ids, vectors=np.ones((20, 4), np.float32))
    wait_applied(client, name)
    assert [hit.id for hit in client.search(name, vector=np.ones(4), top_k=20).hits] == ids


def test_writing_again_replaces_and_deleting_removes(client: Client, name: str) -> None:
    """An id that is written again has one state everywhere, and a deleted one is in no result."""
    client.create_collection(name, dimension=2)
    east, north = np.eye(2, dtype=np.float32)
    first = client.upsert(name, [Record("a", vector=east, attributes={"n": 1}), Record("b", vector=east)])
    second = client.upsert(name, [Record("a", vector=north, attributes={"n": 2})])
    assert second.seq > first.seq
    assert client.delete(name, ids=["b", "never"]).deleted == 1
    wait_applied(client, name)
    hits = client.search(name, vector=east, top_k=10).hits
    assert [(hit.id, hit.attributes) for hit in hits] == [("a", {"n": 2})]
    assert hits[0].score == pytest.approx(0.0, abs=1e-6)
    assert client.stats(name).records == 1
    with pytest.raises(NotFound):
        client.get(name, "b")


def test_attributes_change_without_the_vector(client: Client, name: str) -> None:
    """A record without content keeps its vector; one that does not exist yet is an error of its own."""
    client.create_collection(name, dimension=2)
    client.upsert(name, [Record("a", vector=[3.0, 4.0], attributes={"price": 1})])
    result = client.upsert(name, [Record("a", attributes={"price": 2.5}), Record("new", attributes={"price": 1})])
    assert [(error.index, error.id, error.field) for error in result.errors] == [(1, "new", "id")]
    stored = client.get(name, "a")
    assert stored.attributes == {"price": 2.5}
    np.testing.assert_array_equal(stored.vector, [3.0, 4.0])


def test_listing_goes_by_id_and_pages(client: Client, name: str) -> None:
    """Every live record comes once, in the order of ids, however many pages it takes."""
    client.create_collection(name, dimension=2)
    ids = [f"r{n:04}" for n in range(1500)]
    client.upsert(name, ids=ids[::-1], vectors=np.ones((1500, 2), np.float32))
    client.delete(name, ids=ids[:5])
    assert [record.id for record in client.list(name)] == ids[5:]


def test_an_empty_collection_answers_with_no_hits(client: Client, name: str) -> None:
    """Nothing to find is no error, and is covered in full."""
    client.create_collection(name, dimension=2)
    eventually(lambda: client.search(name, vector=[1.0, 0.0]).coverage.shards_searched == 2)
    result = client.search(name, vector=[1.0, 0.0])
    assert (result.hits, result.coverage.fraction) == ((), 1.0)


def test_collections_are_made_changed_and_deleted(client: Client, name: str) -> None:
    """The catalog does what it says, and a name that was deleted can be used again, empty."""
    made = client.create_collection(name, dimension=2, attributes={"price": "float"}, train_at=100)
    assert client.create_collection(name, dimension=2, exist_ok=True) == made
    with pytest.raises(AlreadyExists):
        client.create_collection(name, dimension=2)
    changed = client.update_collection(name, train_at=50, attributes={"tags": "strings"})
    assert (changed.train_at, changed.attributes) == (50, {"price": "float", "tags": "strings"})
    with pytest.raises(FailedPrecondition):
        client.update_collection(name, attributes={"price": "string"})
    client.upsert(name, [Record("a", vector=[1.0, 0.0])])
    client.delete_collection(name)
    with pytest.raises(NotFound):
        client.search(name, vector=[1.0, 0.0])
    again = client.create_collection(name, dimension=2)
    assert again.uid > made.uid
    eventually(lambda: client.search(name, vector=[1.0, 0.0]).coverage.shards_searched == 2)
    assert client.search(name, vector=[1.0, 0.0]).hits == ()


def test_vectors_of_another_space_are_refused(client: Client, name: str) -> None:
    """A declared space must be the collection's; images have no place among vectors that callers bring."""
    client.create_collection(name)
    unit = np.eye(1, 1280, dtype=np.float32)[0]
    with pytest.raises(EmbeddingSpaceMismatch):
        client.search(name, vector=unit, space="clip:0123")
    client.create_collection(f"{name}-vectors", dimension=2)
    with pytest.raises(FailedPrecondition):
        client.search(f"{name}-vectors", image=jpeg(photos()["coffee"]))


def test_a_caller_can_refuse_partial_answers(client: Client, name: str) -> None:
    """`min_coverage` 1 is met while every shard answers."""
    client.create_collection(name, dimension=2)
    client.upsert(name, [Record("a", vector=[1.0, 0.0])])
    wait_applied(client, name)
    assert client.search(name, vector=[1.0, 0.0], min_coverage=1.0).coverage.fraction == 1.0
    with pytest.raises(InvalidArgument):
        client.search(name, vector=[1.0, 0.0], min_coverage=1.5)


async def test_many_callers_at_once_get_each_their_own_answer(client: Client, name: str, cluster: Running) -> None:
    """Queries that share batches do not share hits, whatever their parameters."""
    vectors = clustered(400, 8)
    client.create_collection(name, dimension=8)
    client.upsert(name, ids=[f"r{n}" for n in range(400)], vectors=vectors)
    wait_applied(client, name)
    async with AsyncClient(cluster.address) as asking:
        found = await asyncio.gather(
            *(asking.search(name, vector=vectors[n], top_k=1 + n % 3, exact=n % 2 == 0) for n in range(400))
        )
    for n, result in enumerate(found):
        assert result.hits[0].id == f"r{n}"
        assert len(result.hits) == 1 + n % 3


def test_a_batch_answers_each_query_or_says_what_is_wrong_with_it(client: Client, name: str) -> None:
    """Queries of different kinds in one batch come back in order; a wrong one leaves its neighbours alone."""
    client.create_collection(name, dimension=2)
    client.upsert(name, [Record("a", vector=[1.0, 0.0]), Record("b", vector=[0.0, 1.0])])
    wait_applied(client, name)
    outcomes = client.search_batch(
        name,
        [Query(vector=[1.0, 0.1]), Query(vector=[1.0, float("nan")]), Query(like="b"), Query(like="gone")],
        top_k=1,
    )
    assert isinstance(outcomes[0], SearchResult)
    assert isinstance(outcomes[2], SearchResult)
    assert [outcomes[0].hits[0].id, outcomes[2].hits[0].id] == ["a", "a"]
    wrong = [outcome for outcome in outcomes if isinstance(outcome, ItemError)]
    assert [error.index for error in wrong] == [1, 3]
