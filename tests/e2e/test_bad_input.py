"""Every kind of bad input: the status and field that the contract promises, and neighbours that notice nothing."""

from collections.abc import Callable

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.e2e.photos import jpeg, photos, tiles
from tests.e2e.running import Running, wait_applied
from tests.server import corpus, images
from vitrail.client import Client, InvalidArgument, ItemError, NotFound, Record, ResourceExhausted, SearchResult
from vitrail.rpc.channel import MAX_MESSAGE_BYTES
from vitrail.v1.search_pb2 import SearchRequest
from vitrail.v1.search_pb2_grpc import SearchServiceStub

Call = Callable[[Client, str], object]

UNIT = np.eye(1, 1280, dtype=np.float32)[0]
NAN = np.where(np.arange(1280) == 7, np.nan, UNIT)
LARGE_SIDE = 30_000

TABLE: dict[str, tuple[Call, type[Exception], str]] = {
    "truncated JPEG": (
        lambda c, n: c.search(n, image=images.jpeg(images.picture())[:-40]),
        InvalidArgument,
        "query.image",
    ),
    "text": (lambda c, n: c.search(n, image=b"this is no image"), InvalidArgument, "query.image"),
    "no bytes": (lambda c, n: c.search(n, image=b""), InvalidArgument, "query.image"),
    "30,000 × 30,000 pixels": (lambda c, n: c.search(n, image=images.png_bomb()), InvalidArgument, "query.image"),
    "a bad example": (lambda c, n: c.search(n, liked=[b"nothing"]), InvalidArgument, "query.examples.liked[0].image"),
    "wrong dimension": (lambda c, n: c.search(n, vector=np.ones(4)), InvalidArgument, "query.vector"),
    "zero vector": (lambda c, n: c.search(n, vector=np.zeros(1280)), InvalidArgument, "query.vector"),
    "top_k 0": (lambda c, n: c.search(n, vector=UNIT, top_k=0), InvalidArgument, "top_k"),
    "top_k 1,001": (lambda c, n: c.search(n, vector=UNIT, top_k=1001), InvalidArgument, "top_k"),
    "unknown collection": (lambda c, n: c.search("nowhere", vector=UNIT), NotFound, "collection"),
    "unknown record": (lambda c, n: c.search(n, like="nobody"), NotFound, "query.record_id"),
    "a bad name": (lambda c, n: c.create_collection("no spaces", dimension=4), InvalidArgument, "name"),
    "one dimension": (lambda c, n: c.create_collection("c", dimension=1), InvalidArgument, "dimension"),
    "train_at 1": (lambda c, n: c.create_collection("c", dimension=4, train_at=1), InvalidArgument, "train_at"),
    "unknown embedder": (lambda c, n: c.create_collection("c", embedder="magic"), InvalidArgument, "embedder"),
}


@pytest.fixture(scope="module")
def filled(cluster: Running) -> str:
    """A collection of photos that the bad input must leave as it is."""
    name = "bad-input"
    with Client(cluster.address) as client:
        client.create_collection(name)
        client.upsert(name, [Record(title, image=jpeg(photo)) for title, photo in photos().items()])
        wait_applied(client, name)
    return name


@pytest.mark.parametrize("kind", TABLE)
def test_a_bad_request_gets_its_status_and_field(client: Client, filled: str, kind: str) -> None:
    """The class of the contract, with the field named; the next request is answered as ever."""
    call, error, field = TABLE[kind]
    with pytest.raises(error) as caught:
        call(client, filled)
    assert getattr(caught.value, "field", None) == field
    assert client.search(filled, image=jpeg(photos()["coffee"]), top_k=1).hits[0].id == "coffee"


def test_not_a_number_is_refused_by_the_server_too(cluster: Running, filled: str) -> None:
    """A client of another language that sends NaN is told which field it is in."""
    request = SearchRequest(collection=filled)
    request.query.vector.data = NAN.astype("<f4").tobytes()
    with grpc.insecure_channel(cluster.address) as channel, pytest.raises(grpc.RpcError) as caught:
        SearchServiceStub(channel).Search(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "query.vector" in str(caught.value.details())


def test_a_message_over_the_limit_is_refused(cluster: Running, client: Client, filled: str) -> None:
    """A message holds 64 MiB: the SDK refuses to send more, and the server refuses who sends it all the same."""
    with pytest.raises(ResourceExhausted, match="message"):
        client.search(filled, image=bytes(MAX_MESSAGE_BYTES + 1))
    unlimited = [("grpc.max_send_message_length", -1)]
    request = SearchRequest(collection=filled)
    request.query.image = bytes(MAX_MESSAGE_BYTES + 1)
    with grpc.insecure_channel(cluster.address, options=unlimited) as channel, pytest.raises(grpc.RpcError) as caught:
        SearchServiceStub(channel).Search(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_odd_images_are_read_and_bad_ones_leave_their_neighbours_alone(client: Client, filled: str, name: str) -> None:
    """In one call: bad files get an error each, and everything that can be read is written and found."""
    photo = photos()["coffee"]
    turned, exif = images.oriented(photo, 6)
    odd = {
        "plain": jpeg(photo),
        "cmyk": images.encode(photo.convert("CMYK"), "JPEG", quality=90),
        "16 bit": images.encode(images.sixteen_bit(photo.convert("L")), "PNG"),
        "palette": images.encode(photo.quantize(256), "PNG"),
        "turned by EXIF": images.encode(turned, "JPEG", exif=exif, quality=90),
        "animated": images.encode(photo, "GIF", save_all=True, append_images=[Image.new("RGB", photo.size)] * 3),
    }
    bad = {"truncated": odd["plain"][:2000], "text": b"<html>", "empty": b"", "bomb": images.png_bomb(LARGE_SIDE)}
    client.create_collection(name)
    records = [Record(title, image=data) for title, data in {**odd, **bad}.items()]
    mixed = [records[place] for place in (6, 0, 1, 7, 2, 3, 8, 4, 5, 9)]
    result = client.upsert(name, mixed)
    assert {error.id: (error.code, error.field) for error in result.errors} == dict.fromkeys(bad, (3, "image"))
    assert [error.index for error in result.errors] == [0, 3, 6, 9]
    wait_applied(client, name)
    scores = {hit.id: hit.score for hit in client.search(name, image=odd["plain"]).hits}
    assert scores.keys() == odd.keys()
    assert scores["plain"] == pytest.approx(1.0, abs=1e-3)
    assert min(scores["cmyk"], scores["palette"], scores["turned by EXIF"], scores["animated"]) > 0.85
    assert scores["16 bit"] > 0.5  # it has lost its colours, not its content


def test_neighbours_in_a_batch_of_queries_are_untouched(client: Client, filled: str) -> None:
    """The vector of a good query is the same alone and beside queries that cannot be decoded."""
    queries = [jpeg(tile) for _, (_, tile) in zip(range(6), tiles(), strict=False)]
    alone = [client.search(filled, image=query, top_k=3).hits for query in queries]
    mixed = [item for query in queries for item in (query, b"bad")]
    outcomes = client.search_batch(filled, images=mixed, top_k=3)
    assert [isinstance(outcome, ItemError) for outcome in outcomes] == [False, True] * 6
    for expected, outcome in zip(alone, outcomes[::2], strict=True):
        assert isinstance(outcome, SearchResult)
        assert [hit.id for hit in outcome.hits] == [hit.id for hit in expected]
        np.testing.assert_allclose([h.score for h in outcome.hits], [h.score for h in expected], atol=1e-4)


def test_the_corpus_leaves_its_neighbours_as_if_alone(client: Client, name: str) -> None:
    """Hostile files between photos, in one call: each gets its error, and vectors and scores are those of the photos
    alone, within the tolerance that the embedder states.
    """
    bad = [data for case in corpus.corpus().values() if isinstance(case, corpus.Bad) for data in case.files]
    bad = [data for data in bad if len(data) < 200_000]
    photos = [jpeg(tile) for _, (_, tile) in zip(range(12), tiles(), strict=False)]
    client.create_collection(name)
    for number, photo in enumerate(photos):
        client.upsert(name, [Record(f"alone-{number}", image=photo)])
    between = len(bad) // len(photos)
    items = [(f"bad-{number}", data) for number, data in enumerate(bad)]
    for number, photo in reversed(list(enumerate(photos))):
        items.insert(number * between, (f"beside-{number}", photo))
    result = client.upsert(name, [Record(title, image=data) for title, data in items])
    assert {(error.id, error.code, error.field) for error in result.errors} == {
        (f"bad-{number}", 3, "image") for number in range(len(bad))
    }
    wait_applied(client, name)
    for number in range(len(photos)):
        alone, beside = (client.get(name, f"{where}-{number}").vector for where in ("alone", "beside"))
        assert alone is not None
        assert beside is not None
        np.testing.assert_allclose(beside, alone, atol=1e-6)
    alone_scores = [client.search(name, image=photo, top_k=5).hits for photo in photos]
    outcomes = client.search_batch(name, images=[data for _, data in items], top_k=5)
    answers = [outcome for outcome in outcomes if isinstance(outcome, SearchResult)]
    assert len(answers) == len(photos)
    assert {o.code for o in outcomes if isinstance(o, ItemError)} == {3}
    for expected, answer in zip(alone_scores, answers, strict=True):
        np.testing.assert_allclose([h.score for h in answer.hits], [h.score for h in expected], atol=1e-6)


def test_attributes_that_contradict_the_schema_are_refused_one_by_one(client: Client, name: str) -> None:
    """The first value of a name fixes its type; a record that differs is refused, the others are written."""
    client.create_collection(name, dimension=2)
    good, bad = {"price": 1.5}, {"price": "cheap"}
    records = [Record(f"r{n}", vector=[1, n], attributes=bad if n == 1 else good) for n in range(3)]
    result = client.upsert(name, records)
    assert [(error.id, error.field) for error in result.errors] == [("r1", "attributes.price")]
    assert client.stats(name).records == 2
    assert client.get_collection(name).attributes == {"price": "float"}


def test_an_empty_folder_is_an_empty_report(
    client: Client, filled: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing to index is no error."""
    report = client.index(filled, tmp_path_factory.mktemp("empty"))
    assert (report.indexed, report.skipped, report.failed) == (0, 0, ())
