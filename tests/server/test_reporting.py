"""What a coordinator tells of the store and of the shards."""

import pytest

from tests.server.fakes import FakeShard, in_time, reported, sample, serving
from vitrail.rpc.errors import Unavailable
from vitrail.server import metrics
from vitrail.server.journal import Journal
from vitrail.server.reporting import Reporting
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection


@pytest.fixture(autouse=True)
def nothing_reported() -> None:
    for gauge in (metrics.RECORDS, metrics.SEQ, metrics.SHARD_REPLICAS):
        gauge.clear()


async def test_collections_are_reported_while_they_are_there(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and uid; and whether the store is there itself."""
    reporting = Reporting(journal, Topology([]))
    created = await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    await journal.write(Write(created.uid, [NewRecord("a", {}, vector=b"12345678")]), in_time())
    await reporting.report_store()
    labels = {"collection": "c", "collection_uid": str(created.uid)}
    assert sample("vitrail_store_reachable") == 1
    assert (sample("vitrail_collection_records", **labels), sample("vitrail_collection_seq", **labels)) == (1, 1)

    def away() -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(journal.store, "heads", away)
        await reporting.report_store()
    assert sample("vitrail_store_reachable") == 0
    assert sample("vitrail_collection_seq", **labels) == 1  # what was known last
    await journal.change_catalog(journal.store.delete_collection, created.uid)
    await reporting.report_store()
    assert sample("vitrail_store_reachable") == 1
    assert labels not in reported("vitrail_collection_seq") + reported("vitrail_collection_records")


async def test_a_version_that_does_not_serve_has_a_name_of_its_own(journal: Journal) -> None:
    """And takes the collection's when it serves."""
    reporting = Reporting(journal, Topology([]))
    first = await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    second = await journal.change_catalog(journal.store.create_version, Collection(name="c", dimension=3))
    await reporting.report_store()
    names = {each["collection"]: each["collection_uid"] for each in reported("vitrail_collection_seq")}
    assert names == {"c": str(first.uid), "c@2": str(second.uid)}


async def test_processes_are_counted_that_can_be_asked_for_a_shard(journal: Journal) -> None:
    """Those of the layout that serves; one that still catches up answers, but is not counted."""
    shards = [FakeShard(0, 2), FakeShard(0, 2), FakeShard(1, 2)]
    async with serving(*shards):
        topology = Topology([shard.address for shard in shards])
        reporting = Reporting(journal, topology)
        await topology.probe_all()
        reporting.report_shards()
        assert counted(2) == [2, 1]
        shards[2].ready = False
        await topology.probe_all()
        reporting.report_shards()
        assert counted(2) == [2, 0]
        assert sample("vitrail_replica_reachable", address=shards[2].address) == 1
        for shard in shards:
            shard.index, shard.shards, shard.ready = 0, 1, True
        await topology.probe_all()
        reporting.report_shards()
        assert reported("vitrail_shard_replicas") == [{"layout": "1", "shard": "0"}]
        assert counted(1) == [3]
        await topology.close()


def counted(layout: int) -> list[float]:
    return [sample("vitrail_shard_replicas", layout=str(layout), shard=str(index)) for index in range(layout)]
