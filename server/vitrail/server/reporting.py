"""The gauges that nothing else keeps current: of the store, and of the shards that serve."""

import asyncio

from vitrail.rpc.errors import Unavailable
from vitrail.server import metrics
from vitrail.server.journal import Journal
from vitrail.server.topology import Topology
from vitrail.v1.collection_pb2 import Collection

REPORT_SECONDS = 5.0


class Reporting:
    """Looks again and again; what is gone is no longer reported."""

    def __init__(self, journal: Journal, topology: Topology) -> None:
        self._journal = journal
        self._topology = topology
        self._names: dict[int, str] = {}
        """Of the collections that are reported, by uid."""
        self._shards: set[tuple[int, int]] = set()
        """Those reported: of how many, and which."""

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self.report_shards()
            await self.report_store()
            await asyncio.sleep(REPORT_SECONDS)

    def report_shards(self) -> None:
        """How many processes can be asked for each shard."""
        shards = self._topology.shards
        there = {(len(shards), shard.index) for shard in shards}
        for gone in self._shards - there:
            metrics.SHARD_REPLICAS.remove(*gone)
        self._shards = there
        for shard in shards:
            able = sum(not replica.failure for replica in shard.replicas)
            metrics.SHARD_REPLICAS.labels(len(shards), shard.index).set(able)

    async def report_store(self) -> None:
        """What the store holds, where it answers."""
        try:
            heads = await self._journal.read(self._journal.store.heads)
        except Unavailable:  # whoever writes hears of it
            metrics.STORE_REACHABLE.set(0)
            return
        metrics.STORE_REACHABLE.set(1)
        names = {each.uid: _name(each) for each in self._journal.catalog.all()}
        for uid, name in self._names.items():
            if names.get(uid) != name:
                for gauge in (metrics.RECORDS, metrics.SEQ):
                    gauge.remove(name, uid)
        self._names = names
        for uid, name in names.items():
            records, seq = heads.collections.get(uid, (0, 0))
            metrics.RECORDS.labels(name, uid).set(records)
            metrics.SEQ.labels(name, uid).set(seq)


def _name(collection: Collection) -> str:
    return collection.name if collection.serves else f"{collection.name}@{collection.version}"
