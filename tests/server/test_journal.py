import asyncio
import threading

import pytest
import sqlalchemy as sa

from tests.server.fakes import eventually, in_time, sample
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import AlreadyExists, DeadlineExceeded, NotFound, Unavailable
from vitrail.server.journal import Journal
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import AttributeType, Value


def record(record_id: str, **attributes: Value) -> NewRecord:
    return NewRecord(record_id, attributes, vector=b"12345678")


async def collection(journal: Journal, name: str = "c") -> int:
    made = await journal.change_catalog(journal.store.create_collection, Collection(name=name, dimension=2))
    return made.uid


class Busy:
    """Keeps the writer's thread busy, so that what is written meanwhile waits."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._begun, self._over = threading.Event(), threading.Event()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._journal.change_catalog(self._work))
        await eventually(self._begun.is_set)

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._task

    def _work(self) -> None:
        self._begun.set()
        self._over.wait(20)


def rename(store: Store, table: str, other: str) -> None:
    with store._database.transaction() as connection:
        connection.execute(sa.text(f"ALTER TABLE {table} RENAME TO {other}"))


async def test_a_write_is_acknowledged_after_its_commit(journal: Journal) -> None:
    """Whoever has the answer can read what was written."""
    uid = await collection(journal)
    written = await journal.write(Write(uid, [record("a"), record("b")]), in_time())
    assert (written.seq, (await journal.read(journal.store.get, uid, ["b"]))["b"].seq) == (2, 2)
    assert (await journal.write(Write(uid, deletes=["a"]), in_time())).seq == 3


async def test_what_waits_is_committed_together(journal: Journal) -> None:
    """Many callers share one commit, and each gets its own numbers, in the order in which they came."""
    uid = await collection(journal)
    before = sample("vitrail_commit_seconds_count")
    writes = [asyncio.create_task(journal.write(Write(uid, [record(f"r{n}")]), in_time())) for n in range(20)]
    assert [written.seq for written in await asyncio.gather(*writes)] == list(range(1, 21))
    assert sample("vitrail_commit_seconds_count") - before <= 2


async def test_a_collection_that_is_gone_fails_its_own_write(journal: Journal) -> None:
    """Its caller gets NotFound, those who are committed with it do not notice."""
    uid, gone = await collection(journal), await collection(journal, "gone")
    await journal.change_catalog(journal.store.delete_collection, gone)
    kept, lost = [asyncio.create_task(journal.write(Write(one, [record("a")]), in_time())) for one in (uid, gone)]
    with pytest.raises(NotFound):
        await lost
    assert (await kept).seq == 1


async def test_a_store_that_fails(journal: Journal) -> None:
    """A write is Unavailable, and so is the next one; nothing of it is kept, and what comes later is written."""
    uid = await collection(journal)
    rename(journal.store, "commits", "elsewhere")  # so a write fails after it has taken its numbers
    for _ in range(2):
        with pytest.raises(Unavailable, match="commits"):
            await journal.write(Write(uid, [record("a")]), in_time())
    assert (await journal.read(journal.store.heads)).collections[uid] == (0, 0)
    rename(journal.store, "elsewhere", "commits")
    assert (await journal.write(Write(uid, [record("a")]), in_time())).seq == 1


async def test_a_write_that_comes_too_late(journal: Journal) -> None:
    """What could not begin before its deadline is not written."""
    uid = await collection(journal)
    async with Busy(journal):
        batches = sample("vitrail_batch_size_items_count", queue="write")
        first = asyncio.create_task(journal.write(Write(uid, [record("a")]), in_time()))
        await eventually(lambda: sample("vitrail_batch_size_items_count", queue="write") > batches)
        with pytest.raises(DeadlineExceeded):
            await journal.write(Write(uid, [record("late")]), Deadline.after(0.02))
    await first
    await journal.write(Write(uid, [record("b")]), in_time())
    assert (await journal.read(journal.store.get, uid, ["a", "b", "late"])).keys() == {"a", "b"}


async def test_a_schema_that_a_write_widened_is_in_the_catalog(journal: Journal) -> None:
    """It is there once the write is acknowledged."""
    uid = await collection(journal)
    await journal.write(Write(uid, [record("a", n=Value(integer_value=1))]), in_time())
    assert dict(journal.catalog.get("c").attributes) == {"n": AttributeType.ATTRIBUTE_TYPE_INTEGER}
    await journal.write(Write(uid, [record("b", n=Value(float_value=1))]), in_time())
    assert dict(journal.catalog.get("c").attributes) == {"n": AttributeType.ATTRIBUTE_TYPE_FLOAT}


async def test_the_catalog_follows_its_changes(journal: Journal) -> None:
    """Collections are found by name once they are made, and not once they are deleted."""
    await collection(journal, "b")
    uid = await collection(journal, "a")
    assert [one.name for one in journal.catalog.all()] == ["a", "b"]
    assert journal.catalog.get("a").uid == uid
    with pytest.raises(AlreadyExists):
        await collection(journal, "a")
    await journal.change_catalog(journal.store.delete_collection, uid)
    with pytest.raises(NotFound) as caught:
        journal.catalog.get("a")
    assert caught.value.field == "collection"


async def test_every_change_is_news(journal: Journal) -> None:
    """Whoever listens is woken by a commit and by a change of the catalog."""
    news = journal.news.listen()
    uid = await collection(journal)
    assert news.is_set()
    news = journal.news.listen()
    assert not news.is_set()
    await journal.write(Write(uid, [record("a")]), in_time())
    assert news.is_set()


async def test_what_is_committed_is_acknowledged_whatever_follows(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the catalog cannot be read again after a commit, the write has still succeeded."""
    uid = await collection(journal)

    def fail() -> None:
        raise Unavailable("the disk is away")

    monkeypatch.setattr(journal.store, "read_catalog", fail)
    written = await journal.write(Write(uid, [record("a", n=Value(integer_value=1))]), in_time())
    assert written.seq == 1
    assert (await journal.read(journal.store.get, uid, ["a"])).keys() == {"a"}
