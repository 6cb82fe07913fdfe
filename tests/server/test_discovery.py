import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.server.fakes import FakeShard, eventually, serving
from vitrail.server import discovery
from vitrail.server.config import Config
from vitrail.server.discovery import find, watch
from vitrail.server.topology import Topology


async def test_what_sources_stand_for(tmp_path: Path) -> None:
    """An address for itself, a file for its lines, a name for all of its addresses; nothing where there is no such."""
    path = tmp_path / "addresses"
    path.write_text("10.0.0.1:1\n10.0.0.2:2\n\n10.0.0.1:1\n")
    assert await find(["shard:9", f"file:{path}"]) == {"shard:9", "10.0.0.1:1", "10.0.0.2:2"}
    assert "127.0.0.1:50" in await find(["dns:localhost:50"])
    assert await find(["dns:nobody.invalid:50"]) == set()
    with pytest.raises(OSError, match="missing"):
        await find([f"file:{tmp_path / 'missing'}"])


async def test_those_of_before_stay_while_a_source_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is away for a moment does not take the shards away; once it is there again its lines count."""
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 0.01)
    path, told = tmp_path / "addresses", list[set[str]]()

    def use(addresses: Iterable[str]) -> None:
        told.append(set(addresses))

    path.write_text("a:1")
    watching = asyncio.create_task(watch([f"file:{path}"], use))
    await eventually(lambda: len(told) > 1)
    path.unlink()
    await asyncio.sleep(0.05)
    before = len(told)
    await asyncio.sleep(0.05)
    assert len(told) == before
    path.write_text("b:2")
    await eventually(lambda: told[-1] == {"b:2"})
    watching.cancel()
    assert {"a:1"} in told
    assert set() not in told


@pytest.mark.parametrize("source", ["a", "a:", ":1", "dns:a", "dns::1"])
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        Config(store="x", shards=(source,))


async def test_processes_come_and_go() -> None:
    """One that is named while the others run is found and serves; one that is no longer named is asked no more."""
    one, *two = FakeShard(), FakeShard(0, 2), FakeShard(1, 2)
    async with serving(one, *two):
        topology = Topology([one.address])
        running = asyncio.create_task(topology.run())
        await eventually(lambda: len(topology.shards) == 1)
        topology.use([one.address, *(shard.address for shard in two)])
        await eventually(lambda: [each.failure for each in topology.replicas] == ["", "", ""])
        assert [replica.address for replica in topology.shards[0].replicas] == [one.address]
        topology.use(shard.address for shard in two)
        await eventually(lambda: [len(shard.replicas) for shard in topology.shards] == [1, 1])
        probed = one.probes
        await eventually(lambda: min(shard.probes for shard in two) > 4)
        assert one.probes <= probed + 1
        running.cancel()
        await topology.close()
