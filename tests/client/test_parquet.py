"""A collection as a Parquet file, and files of others."""

import asyncio
import io
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.client.fakes import Fake
from tests.client.pictures import photo

from vitrail.client import (
    AsyncClient,
    Client,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Record,
    VitrailError,
)
from vitrail.client.parquet import decoding, exporting
from vitrail.rpc.attributes import AttributeValue, to_value
from vitrail.v1.record_pb2 import RecordInput, UpsertRecordsRequest
from vitrail.v1.types_pb2 import AttributeType, StringList, Value, Vector

MOMENT = datetime(1969, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)
ALL: dict[str, AttributeValue] = {"s": "ü", "n": -(2**63), "f": 0.1, "b": False, "t": MOMENT, "l": ["a", "", "a"]}
TYPES = {"s": "string", "n": "integer", "f": "float", "b": "boolean", "t": "timestamp", "l": "strings"}
DIMENSION = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.parquet"


@pytest.fixture
async def filled(client: Any, fake: Fake) -> Fake:
    """A collection with every type of attribute, in one record all of them and in others few or none."""
    await client.create_collection("c", dimension=DIMENSION, metric="euclidean", attributes=TYPES, train_at=77)
    origin = {"uri": "file:///a", "thumbnail": b"jpeg", "content_hash": b"h" * 32}
    records = [
        RecordInput(id="all", vector=floats(0.1, 1e-45, 3e38), **origin),  # type: ignore[arg-type]  # text and bytes
        RecordInput(id="none", vector=floats(-0.0, 1, 2)),
        RecordInput(id="empty", vector=floats(1, 2, 3), attributes={"l": Value(strings_value=StringList())}),
        RecordInput(id="integer", vector=floats(1, 2, 3), attributes={"f": Value(integer_value=3)}),
    ]  # fmt: skip
    for name, value in ALL.items():
        records[0].attributes[name].CopyFrom(to_value(name, value))
    fake.upsert(UpsertRecordsRequest(collection="c", records=records))
    return fake


def floats(*values: float) -> Vector:
    return Vector(data=np.array(values, "<f4").tobytes())


def size(path: Path) -> int:
    return path.stat().st_size


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def table(**columns: Any) -> pa.Table:
    """A file of someone else; ids and vectors where none are given."""
    rows = len(next(iter(columns.values()))) if columns else 2
    vectors = pa.array([[1.0, 2.0, float(n)] for n in range(rows)], pa.list_(pa.float64()))
    return pa.table({"id": [f"r{n}" for n in range(rows)], "vector": vectors} | columns)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def seen(fake: Fake, name: str) -> dict[str, Any]:
    """All that a client sees of records, but when they were written."""
    with Client(fake.address) as client:
        return {
            record.id: (record.vector.tobytes(), record.attributes, record.uri, record.content_hash, record.thumbnail)
            for record in client.list(name, include=["vector", "thumbnail"])
            if record.vector is not None
        }


async def test_a_round_trip_is_complete(client: Any, filled: Fake, file: Path) -> None:
    """Vectors bit for bit, every attribute with its type, what is absent, and how the collection was defined."""
    filled.collections["c"].keep_images = True
    filled.page = 3
    report = await client.export("c", file, progress=True)
    assert (report.records, report.bytes) == (4, size(file))
    report = await client.import_(file, "d", progress=True)
    assert (report.collection, report.imported, report.failed, report.errors) == ("d", 4, 0, ())
    before, after = seen(filled, "c"), seen(filled, "d")
    assert after == before
    assert before["all"][1] == ALL
    assert type(after["integer"][1]["f"]) is float
    made, definition = filled.collections["d"], filled.collections["c"]
    for field in ("dimension", "metric", "attributes", "train_at", "thumbnails", "keep_images", "embedder", "space"):
        assert getattr(made, field) == getattr(definition, field)


async def test_it_goes_back_to_its_own_name(client: Any, filled: Fake, file: Path) -> None:
    """Without a name it makes the collection that it is of; a second time, or into one that is there, does no harm."""
    await client.export("c", file)
    before = seen(filled, "c")
    await client.delete_collection("c")
    filled.records.clear()
    for _ in range(2):
        assert (await client.import_(str(file))).collection == "c"
        assert seen(filled, "c") == before


async def test_others_can_read_it(client: Any, filled: Fake, file: Path) -> None:
    """Plain types under plain names."""
    await client.export("c", file)
    found = pq.read_table(file)
    assert found.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)
    assert {field.name: str(field.type) for field in found.schema.field("attributes").type} == {
        "s": "string", "n": "int64", "f": "double", "b": "bool", "t": "timestamp[us, tz=UTC]",
        "l": "list<element: string>",
    }  # fmt: skip
    rows = {row["id"]: row for row in found.to_pylist()}
    assert rows["all"]["attributes"] == ALL
    assert rows["none"]["attributes"] == dict.fromkeys(ALL)
    assert rows["none"]["uri"] is rows["none"]["thumbnail"] is rows["none"]["content_hash"] is None
    assert rows["empty"]["attributes"]["l"] == []
    assert [rows[id]["seq"] for id in ("all", "none", "empty", "integer")] == [1, 2, 3, 4]


async def test_without_attributes_or_records(client: Any, fake: Fake, file: Path) -> None:
    """A collection that has neither has a file, too, and comes back from it."""
    await client.create_collection("c", dimension=DIMENSION)
    assert (await client.export("c", file)).records == 0
    assert pq.read_schema(file).names == ["id", "vector", "uri", "content_hash", "thumbnail", "update_time", "seq"]
    await client.delete_collection("c")
    assert (await client.import_(file)).imported == 0
    assert fake.collections["c"].dimension == DIMENSION
    await client.upsert("c", [Record("a", vector=[1, 2, 3])])
    await client.export("c", file)
    assert (await client.import_(file, "d")).imported == 1
    assert not fake.collections["d"].attributes  # update_time and seq are none


async def test_row_groups_are_bounded_by_their_bytes(
    client: Any, fake: Fake, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large thumbnails make smaller row groups; importing sends what fits a call."""
    monkeypatch.setattr(exporting, "GROUP_BYTES", 100_000)
    await client.create_collection("c", dimension=DIMENSION)
    records = [RecordInput(id=f"{n:03}", vector=floats(1, 2, n), thumbnail=bytes(5_000)) for n in range(100)]
    fake.upsert(UpsertRecordsRequest(collection="c", records=records))
    fake.page = 10
    await client.export("c", file)
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [20] * 5
    await client.import_(file, "d")
    assert seen(fake, "d") == seen(fake, "c")


FOREIGN: dict[str, tuple[pa.Array, Any]] = {
    "int8": (pa.array([7, None], pa.int8()), 7),
    "uint32": (pa.array([2**32 - 1, None], pa.uint32()), 2**32 - 1),
    "float32": (pa.array([0.5, None], pa.float32()), 0.5),
    "boolean": (pa.array([True, None]), True),
    "large string": (pa.array(["x", None], pa.large_string()), "x"),
    "string view": (pa.array(["x", None], pa.string_view()), "x"),
    "categories": (pa.array(["x", None]).dictionary_encode(), "x"),
    "nanoseconds without a zone": (
        pa.array([-1_000_000_001, None], pa.timestamp("ns")),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    ),
    "seconds": (pa.array([0, None], pa.timestamp("s", "Europe/Paris")), datetime(1970, 1, 1, tzinfo=UTC)),
    "list": (pa.array([["a", ""], None]), ["a", ""]),
    "large list": (pa.array([["a"], None], pa.large_list(pa.large_string())), ["a"]),
    "nothing at all": (pa.nulls(2), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("in_struct", [False, True])
async def test_a_file_of_others(client: Any, fake: Fake, file: Path, kind: str, in_struct: bool) -> None:
    """Its further columns, or the fields of a struct, are attributes of the nearest type; null is absent."""
    column, value = FOREIGN[kind]
    if in_struct:
        columns = {"attributes": pa.StructArray.from_arrays([column], ["x"]), "more": [1, 2]}
    else:
        columns = {"x": column}
    pq.write_table(table(**columns), file)
    await client.create_collection("c", dimension=DIMENSION)
    assert (await client.import_(file, "c")).imported == 2
    found = {id: attributes for id, (_, attributes, *_) in seen(fake, "c").items()}
    assert found == {"r0": {} if value is None else {"x": value}, "r1": {}}


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.list_(pa.float32(), 3), pa.large_list(pa.float32()), pa.list_(pa.float64())]
)
async def test_vectors_of_others(client: Any, fake: Fake, file: Path, kind: pa.DataType) -> None:
    """Lists of any kind of floats are vectors."""
    pq.write_table(table(vector=pa.array([np.array([1, 2, 3], np.float16)] * 2).cast(kind)), file)
    await client.create_collection("c", dimension=DIMENSION)
    assert (await client.import_(file, "c")).imported == 2
    assert seen(fake, "c")["r0"][0] == floats(1, 2, 3).data


async def test_columns_of_ours_without_any_value(client: Any, fake: Fake, file: Path) -> None:
    """As pandas writes them, without a type; the id of a record cannot be such a one."""
    await client.create_collection("c", dimension=DIMENSION)
    pq.write_table(table(uri=pa.nulls(2), content_hash=pa.nulls(2), thumbnail=pa.nulls(2)), file)
    assert (await client.import_(file, "c")).imported == 2
    pq.write_table(table(id=pa.nulls(2)), file)
    with pytest.raises(InvalidArgument, match="id: is a column of null"):
        await client.import_(file, "c")


async def test_rows_that_are_wrong_are_listed_and_the_others_written(client: Any, fake: Fake, file: Path) -> None:
    """By their place in the file, over batches and row groups; what the server refuses, too."""
    vectors: list[Any] = [[1.0, 2.0, 3.0]] * 3000
    vectors[5], vectors[6], vectors[2500], vectors[2501] = None, [1.0], [1.0, None, 2.0], [1.0, np.inf, 2.0]
    ids: list[Any] = [f"r{n}" for n in range(3000)]
    ids[0], ids[1] = None, ""
    texts: list[Any] = ["x"] * 3000
    texts[2] = "x" * 100_000
    lists: list[Any] = [["x"]] * 3000
    lists[3], lists[4] = ["x"] * 40_000, ["x", None]
    many = {"id": ids, "vector": pa.array(vectors, pa.list_(pa.float32())), "s": texts, "l": lists}
    pq.write_table(pa.table(many), file, row_group_size=1100)
    await client.create_collection("c", dimension=DIMENSION)
    report = await client.import_(file, "c")
    assert [(error.index, error.id, error.field) for error in report.errors] == [
        (0, "", "id"),
        (1, "", "id"),
        (2, "r2", "attributes.s"),
        (3, "r3", "attributes.l"),
        (4, "r4", "attributes.l"),
        (5, "r5", "vector"),
        (6, "r6", "vector"),
        (2500, "r2500", "vector"),
        (2501, "r2501", "vector"),
    ]
    assert (report.imported, report.failed, len(fake.records["c"])) == (2991, 9, 2991)
    assert {error.code for error in report.errors} == {3}


async def test_text_that_is_not_utf8_is_the_error_of_its_row(client: Any, fake: Fake, file: Path) -> None:
    """In an id and in an attribute; Parquet itself does not mind."""
    broken = pa.array([b"\xff", b"ok", b"ok"]).cast(pa.binary()).view(pa.string())
    pq.write_table(table(id=broken, x=broken.take(pa.array([1, 0, 1]))), file)
    await client.create_collection("c", dimension=DIMENSION)
    report = await client.import_(file, "c")
    assert [(error.index, error.field) for error in report.errors] == [(0, "id"), (1, "attributes.x")]


async def test_listed_errors_are_bounded(client: Any, fake: Fake, file: Path) -> None:
    """All are counted, a thousand are told."""
    pq.write_table(table(id=pa.nulls(5000, pa.string())), file)
    await client.create_collection("c", dimension=DIMENSION)
    report = await client.import_(file, "c")
    assert (report.imported, report.failed, len(report.errors)) == (0, 5000, 1000)


def written(change: Callable[[pa.Table], pa.Table]) -> bytes:
    out = io.BytesIO()
    pq.write_table(change(table()), out)
    return out.getvalue()


def with_definition(text: bytes) -> bytes:
    return written(lambda good: good.replace_schema_metadata({"vitrail.collection": text}))


BAD: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "path", "cannot be read as Parquet"),
    "text": (b"id,vector\n" * 10, "path", "cannot be read as Parquet"),
    "truncated": (written(lambda good: good)[:-20], "path", "cannot be read as Parquet"),
    "without id": (written(lambda good: good.drop(["id"])), "id", "no such column"),
    "without vector": (written(lambda good: good.drop(["vector"])), "vector", "no such column"),
    "two columns of one name": (
        written(lambda good: good.append_column("id", good["id"])),
        "id",
        "two columns of this name",
    ),
    "numbers as ids": (written(lambda good: good.set_column(0, "id", pa.array([1, 2]))), "id", "int64"),
    "text as vectors": (written(lambda good: good.set_column(1, "vector", good["id"])), "vector", "string"),
    "integers as vectors": (
        written(lambda good: good.set_column(1, "vector", pa.array([[1, 2, 3]] * 2))),
        "vector",
        "list<element: int64>",
    ),
    "another dimension": (
        written(lambda good: good.set_column(1, "vector", pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)))),
        "vector",
        "has 2 dimensions, not 3",
    ),
    "a uri of numbers": (written(lambda good: good.append_column("uri", pa.array([1, 2]))), "uri", "int64"),
    "a hash of text": (
        written(lambda good: good.append_column("content_hash", good["id"])),
        "content_hash",
        "string",
    ),
    "a thumbnail of 100,000 bytes each": (
        written(lambda good: good.append_column("thumbnail", pa.array([bytes(100_000)] * 2, pa.binary(100_000)))),
        "thumbnail",
        "fixed_size_binary[100000]",
    ),
    "a column that is no attribute": (
        written(lambda good: good.append_column("x", pa.array([{"y": 1}] * 2))),
        "attributes.x",
        "struct<y: int64>",
    ),
    "numbers beyond 64 bits": (
        written(lambda good: good.append_column("x", pa.array([1, 2**64 - 1], pa.uint64()))),
        "attributes.x",
        "uint64",
    ),
    "an attribute of another type": (
        written(lambda good: good.append_column("known", good["id"])),
        "attributes.known",
        "is of type integer in 'c', not string",
    ),
    "a definition that is none": (with_definition(b"{"), "", "definition"),
    "a definition of another kind": (with_definition(b'{"dimension": "x"}'), "", "definition"),
    "a definition that is not UTF-8": (with_definition(b"\xff"), "", "definition"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_file_is_refused_before_anything_is_written(client: Any, fake: Fake, file: Path, kind: str) -> None:
    """With the column that is wrong, and why."""
    data, field, why = BAD[kind]
    write(file, data)
    await client.create_collection("c", dimension=DIMENSION, attributes={"known": "integer"})
    with pytest.raises(InvalidArgument) as caught:
        await client.import_(file, "c")
    assert caught.value.field == field
    assert why in str(caught.value)
    assert not fake.records["c"]
    assert not fake.requests["UpdateCollectionRequest"]


async def test_an_integer_may_go_where_floats_are(client: Any, fake: Fake, file: Path) -> None:
    """And floats where integers were, which the server widens."""
    pq.write_table(table(a=[1, 2], b=[0.5, 1.5]), file)
    await client.create_collection("c", dimension=DIMENSION, attributes={"a": "float", "b": "integer"})
    assert (await client.import_(file, "c")).imported == 2


async def test_attributes_are_declared_before_records_are_written(client: Any, fake: Fake, file: Path) -> None:
    """So that the server refuses a bad name at once; a column of nulls has its type as well."""
    pq.write_table(table(a=pa.nulls(2, pa.int64())), file)
    await client.create_collection("c", dimension=DIMENSION)
    await client.import_(file, "c")
    assert fake.collections["c"].attributes == {"a": AttributeType.ATTRIBUTE_TYPE_INTEGER}
    fake.records.clear()
    fake.refused_attributes.add("b b")
    pq.write_table(table(**{"b b": [1, 2]}), file)
    with pytest.raises(InvalidArgument) as caught:
        await client.import_(file, "c")
    assert caught.value.field == "attributes.b b"
    assert not fake.records["c"]


@pytest.mark.parametrize("encoded", [True, False], ids=["dictionary", "plain"])
@pytest.mark.parametrize("where", ["id", "x", "struct", "list", "thumbnail"])
async def test_a_bomb_goes_off_nowhere(client: Any, fake: Fake, file: Path, where: str, encoded: bool) -> None:
    """One string of 1 MB stands in 2,000 rows, or 100,000 times in one list: it is never copied out so often."""
    rows = 2000
    large = pa.array([b"x" * 1_000_000] if where == "thumbnail" else ["x" * 1_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * (rows if encoded else 3), pa.int32()), large)
    if where == "struct":
        columns = {"attributes": pa.StructArray.from_arrays([column], ["x"])}
    elif where == "list":
        many = pa.DictionaryArray.from_arrays(pa.array([0] * (100_000 if encoded else 3), pa.int32()), large)
        columns = {"x": pa.ListArray.from_arrays([0, len(many)], many)}
    else:
        columns = {where: column}
    pq.write_table(
        table(**columns), file, compression="zstd", use_dictionary=encoded, dictionary_pagesize_limit=2**30,
        store_schema=False,
    )  # fmt: skip
    assert size(file) < 200_000
    await client.create_collection("c", dimension=DIMENSION)
    pool = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(counted)
    try:
        report = await client.import_(file, "c")
    finally:
        pa.set_memory_pool(pool)
    assert (report.imported, report.failed) == (0, len(next(iter(columns.values()))))
    assert 0 < counted.max_memory() < 50_000_000


async def test_a_list_that_cannot_be_held_is_an_error_of_the_file(
    client: Any, fake: Fake, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kilobyte that stands for a quarter of a gigabyte, and for thrice that while it is decoded."""
    monkeypatch.setattr(decoding, "MEMORY_BYTES", 2**30)
    await client.create_collection("c", dimension=DIMENSION)
    pq.write_table(table(), file)
    assert (await client.import_(file, "c")).imported == 2
    ones = pa.array(np.ones(2**26, np.float32))
    many = pa.ListArray.from_arrays([0, len(ones)], ones)
    pq.write_table(pa.table({"id": ["a"], "vector": many}), file, compression="zstd")
    assert size(file) < 2000
    with pytest.raises(InvalidArgument, match="takes more than 1,073,741,824 bytes") as caught:
        await client.import_(file, "c")
    assert caught.value.field == "path"


async def test_damage_of_any_kind_is_an_error_of_the_file(client: Any, filled: Fake, file: Path) -> None:
    """Whatever bytes are changed, it is read, or refused with one of our errors."""
    await client.export("c", file)
    data = read(file)
    randomness = random.Random(7)
    refused = 0
    for _ in range(30):
        broken = bytearray(data)
        for place in randomness.sample(range(len(data)), randomness.choice([1, 1, 4])):
            broken[place] = randomness.randrange(256)
        write(file, bytes(broken))
        try:
            await client.import_(file, "d")
        except VitrailError:
            refused += 1
        else:
            await client.delete_collection("d")
        filled.collections.pop("d", None)
    assert refused > 10


async def test_vectors_of_another_space_are_refused(client: Any, fake: Fake, file: Path) -> None:
    """Into a collection that exists, and into one that it would make: that one is not left behind."""
    await client.create_collection("c")
    await client.upsert("c", [Record("a", image=photo())])
    await client.export("c", file)
    await client.create_collection("mine", dimension=4)
    with pytest.raises(EmbeddingSpaceMismatch):
        await client.import_(file, "mine")
    fake.space = "default:2"
    await client.create_collection("other")
    with pytest.raises(EmbeddingSpaceMismatch):
        await client.import_(file, "other")
    with pytest.raises(EmbeddingSpaceMismatch):
        await client.import_(file, "new")
    assert set(fake.collections) == {"c", "mine", "other"}
    assert not fake.records["mine"]
    assert not fake.records["other"]


async def test_what_is_sent_declares_its_space(client: Any, fake: Fake, file: Path) -> None:
    """So that the server refuses it as well; a file of others declares none."""
    await client.create_collection("c")
    await client.upsert("c", [Record("a", image=photo())])
    await client.export("c", file)
    await client.import_(file, "c")
    assert fake.requests["UpsertRecordsRequest"][-1].vectors.space == "default:1"


async def test_a_collection_is_needed(client: Any, fake: Fake, file: Path) -> None:
    """A file of others neither names one nor says how to make it."""
    pq.write_table(table(), file)
    with pytest.raises(InvalidArgument) as caught:
        await client.import_(file)
    assert caught.value.field == "name"
    with pytest.raises(NotFound):
        await client.import_(file, "c")
    with pytest.raises(FileNotFoundError):
        await client.import_(file.with_name("missing"), "c")
    with pytest.raises(NotFound):
        await client.export("c", file.with_name("x"))


async def test_an_export_that_fails_leaves_what_was_there(client: Any, filled: Fake, file: Path) -> None:
    """No half of a file, and the last backup as it was."""
    await client.export("c", file)
    before = read(file)
    filled.page = 1
    filled.records["c"]["none"].vector.Clear()
    with pytest.raises(FailedPrecondition, match="'none' has no vector"):
        await client.export("c", file)
    assert names(file.parent) == [file.name]
    assert read(file) == before
    with pytest.raises(InvalidArgument):
        await client.export("c", file.parent)
    with pytest.raises(FileNotFoundError):
        await client.export("c", file.parent / "missing" / "c.parquet")


async def test_a_version_with_pending_vectors_is_no_backup(client: Any, filled: Fake, file: Path) -> None:
    """It says what to do: another try would not help."""
    filled.records["c"]["none"].vector.Clear()
    filled.records["c"]["none"].pending = True
    with pytest.raises(FailedPrecondition, match="'none' has no vector yet in this version: fill it first"):
        await client.export("c", file)
    assert names(file.parent) == []


async def test_an_export_that_is_cancelled_leaves_nothing(filled: Fake, file: Path) -> None:
    """While a page is waited for."""
    async with AsyncClient(filled.address) as client:
        filled.hang_at = "ListRecordsRequest"
        task = asyncio.create_task(client.export("c", file))
        await asyncio.to_thread(filled.hanging.wait, 10)
        assert len(names(file.parent)) == 1
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert names(file.parent) == []


async def test_a_collection_that_is_replaced_meanwhile_is_said(client: Any, filled: Fake, file: Path) -> None:
    """Its name may stand for another one by the time that the last page is read."""
    filled.renumbers = True
    with pytest.raises(FailedPrecondition, match="became another collection"):
        await client.export("c", file)
    assert names(file.parent) == []


@pytest.mark.parametrize("change", ["new", "wider"])
async def test_a_schema_that_grows_meanwhile_is_said(client: Any, filled: Fake, file: Path, change: str) -> None:
    """The file has no place for such a value, and to leave it out would be no backup."""
    if change == "new":
        filled.records["c"]["none"].attributes["later"].integer_value = 1
    else:
        filled.records["c"]["none"].attributes["n"].float_value = 0.5
    with pytest.raises(FailedPrecondition) as caught:
        await client.export("c", file)
    assert caught.value.field == ("attributes.later" if change == "new" else "attributes.n")
    assert names(file.parent) == []
