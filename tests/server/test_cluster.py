import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.server.fakes import FakeShard, serving
from vitrail.rpc import protocol
from vitrail.rpc.errors import InvalidArgument
from vitrail.server.cluster import ClusterService
from vitrail.server.journal import Journal
from vitrail.server.topology import Topology
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.cluster_pb2 import GetShardsRequest, GetShardsResponse, SetShardsRequest
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Program

CONTEXT: Any = None


@contextlib.asynccontextmanager
async def known(journal: Journal, *shards: FakeShard) -> AsyncIterator[ClusterService]:
    async with serving(*shards):
        topology = Topology([shard.address for shard in shards], lambda: journal.catalog.wanted_shards)
        await topology.probe_all()
        yield ClusterService(journal, topology)
        await topology.close()


async def shown(service: ClusterService) -> GetShardsResponse:
    return await service.GetShards(GetShardsRequest(), CONTEXT)


async def test_what_is_shown_of_processes(journal: Journal) -> None:
    """By layout and shard, with what each lacks of the log; those that are gone and do not matter are left out."""
    made = await journal.change_catalog(journal.store.create_collection, Collection(name="c", dimension=2))
    assert made.uid == 1
    await journal.read(journal.store.write, [Write(1, [NewRecord(f"r{n}", {}, vector=b"1") for n in range(9)])])
    one, other, new = FakeShard(1, 2, seq=9), FakeShard(0, 2, seq=7, records={"a": [1.0]}), FakeShard(0, 3, seq=2)
    new.ready, new.train_at, new.reached = False, 0, 5  # its last checkpoint was at 2
    async with known(journal, one, other, new) as service:
        response = await shown(service)
        assert [(p.shard, p.shards, p.behind, p.records) for p in response.processes] == [
            (0, 2, 2, 1),
            (1, 2, 0, 0),
            (0, 3, 4, 0),
        ]
        assert {p.head for p in response.processes} == {9}
        assert [p.failure for p in response.processes] == ["", "", "still catching up with the log"]
        new.ready = True
        assert [p.failure for p in (await shown(service)).processes] == ["", "", "still training its first index"]
        assert (response.serving, response.wanted) == (2, 0)
        assert response.processes[0].address == other.address
        await service.SetShards(SetShardsRequest(shards=3), CONTEXT)
        topology = service._topology
        topology.replicas[2].failure = "unreachable"
        assert len(topology.in_order()) == 3
        await service.SetShards(SetShardsRequest(shards=2), CONTEXT)
        assert len(topology.in_order()) == 2


async def test_a_process_of_another_protocol_is_not_asked(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two does not understand the other: it says why, and its replica is asked alone."""
    one, other = FakeShard(), FakeShard()
    one.program, other.program = Program(version="0.0.9", protocol=1), Program(version="1.2.3", protocol=2)
    async with known(journal, one, other) as service:
        processes = (await shown(service)).processes
        assert [(p.program.version, p.failure) for p in processes] == [("0.0.9", ""), ("1.2.3", "")]
        monkeypatch.setattr(protocol, "OLDEST", 2)
        old = next(p for p in (await shown(service)).processes if p.address == one.address)
        assert (old.shards, old.program.version) == (0, "0.0.9")
        assert "of version 0.0.9, speaks protocol 1" in old.failure
        assert [each.address for each in service._topology.shards[0].replicas] == [other.address]
        other.refusal = "the coordinator speaks protocol 1"
        await shown(service)
        assert not service._topology.shards[0].can_be_asked
        monkeypatch.setattr(protocol, "OLDEST", 1)
        other.refusal = ""
        assert [p.failure for p in (await shown(service)).processes] == ["", ""]


async def test_the_wanted_layout_takes_over_once_it_is_whole(journal: Journal) -> None:
    """Not before all of its shards are ready, and it stays while it is whole."""
    one, *two = FakeShard(), FakeShard(0, 2), FakeShard(1, 2, ready=False)
    async with known(journal, one, *two) as service:
        await service.SetShards(SetShardsRequest(shards=2), CONTEXT)
        assert (await shown(service)).serving == 1
        two[1].ready = True
        assert (await shown(service)).serving == 2
        await service.SetShards(SetShardsRequest(shards=1), CONTEXT)
        assert (await shown(service)).serving == 1
        assert (await shown(service)).wanted == 1
        assert journal.store.wanted_shards() == 1


@pytest.mark.parametrize("shards", [0, -1, 1025])
async def test_a_number_that_cannot_be(journal: Journal, shards: int) -> None:
    """There are as many slots as shards at most."""
    service = ClusterService(journal, Topology([]))
    with pytest.raises(InvalidArgument, match="1024"):
        await service.SetShards(SetShardsRequest(shards=shards), CONTEXT)
