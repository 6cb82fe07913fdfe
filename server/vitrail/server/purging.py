"""Deleting for good: tombstones that are old enough by themselves, and all that was deleted when somebody asks.

Of a deleted record the store keeps a tombstone, so that followers hear of it, and files of the store and of shards keep
its bytes until they are written anew. To leave nothing, first every replica that answers applies the deletion; then the
tombstones go, and whoever was away will be told to begin again; then the store's files and the partitions are written
anew. What is asked again is not done again.
"""

import asyncio
import time
from collections.abc import Mapping

import grpc
import structlog

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, NotFound, Unavailable, VitrailError
from vitrail.server.journal import Journal
from vitrail.server.topology import PROBE_TIMEOUT, Replica, Topology, reason
from vitrail.v1.collection_pb2 import Collection, PurgeCollectionResponse, PurgeRemains
from vitrail.v1.shard_pb2 import CompactRequest

log = structlog.get_logger()

PURGE_SECONDS = 60.0
# How long a call waits for progress, and how often it looks.
WAIT_SECONDS, LOOK_SECONDS = 1.0, 0.05
STORE = "the store"
POSTGRESQL_NOTE = "PostgreSQL's write-ahead log, replicas and backups keep what was deleted until they let go of it"
SNAPSHOTS_NOTE = "snapshots of partitions keep what was deleted until they are written anew and a day has passed"


class Purging:
    """Purges one store. `run` does it by the clock."""

    def __init__(self, journal: Journal, topology: Topology, horizon_seconds: float) -> None:
        """Nothing is purged yet.

        Args:
            journal: The way to the store.
            topology: Its followers.
            horizon_seconds: How old tombstones are when they are purged.
        """
        self._journal = journal
        self._topology = topology
        self._horizon = horizon_seconds
        self._cleaning: asyncio.Task[None] | None = None
        self._failure = ""

    async def run(self) -> None:
        """Purge what is old, again and again, until cancelled."""
        while True:
            try:
                await self.purge_old()
            except Unavailable as error:
                log.warning("cannot purge what was deleted long ago", why=str(error))
            await asyncio.sleep(min(PURGE_SECONDS, self._horizon))

    async def purge_old(self) -> None:
        """Purge the tombstones of before the horizon, and the marks of the log that nobody needs from then."""
        store, moment = self._journal.store, time.time_ns() // 1000 - round(1_000_000 * self._horizon)
        for collection in self._journal.catalog.all():
            end = await self._journal.read(store.end_at, collection.uid, moment)
            await self._purge(collection.uid, end)
            while await self._journal.change(store.forget_marks, collection.uid, end):
                pass

    async def purge(self, collections: list[Collection], seq: int, deadline: Deadline) -> PurgeCollectionResponse:
        """Go on with purging all versions of a collection up to a `seq`; 0 for where its log ends now.

        Raises:
            NotFound: It was deleted.
            FailedPrecondition: The log does not go that far.
            Unavailable: The store is away.
        """
        heads = await self._journal.read(self._journal.store.heads)
        ends = {each.uid: heads.collections[each.uid][1] for each in collections if each.uid in heads.collections}
        if not ends:
            raise NotFound("the collection was deleted", field="name")
        if seq > max(ends.values()):
            raise FailedPrecondition(f"the log ends at {max(ends.values()):,}, before {seq:,}", field="seq")
        seq = seq or max(ends.values())
        targets = {uid: min(seq, end) for uid, end in ends.items()}
        until = Deadline.after(min(WAIT_SECONDS, deadline.remaining / 2))
        while True:
            await self._topology.probe_all()
            replicas = self._topology.in_order()
            remains = await self._remains(targets, replicas)
            if not remains or until.expired:
                return PurgeCollectionResponse(seq=seq, done=not remains, remains=remains, notes=self._notes(replicas))
            await asyncio.sleep(LOOK_SECONDS)

    async def _remains(self, targets: Mapping[int, int], replicas: list[Replica]) -> list[PurgeRemains]:
        """Do what can be done next; returns what may be left."""
        there = [replica for replica in replicas if replica.answers]
        behind = [each for each in there if any(each.applied_seq(uid) < seq for uid, seq in targets.items())]
        store = "shards do not all know what was deleted" if behind else await self._clean_store(targets)
        found = [PurgeRemains(where=STORE, why=store)] if store else []
        for replica in replicas:
            if replica not in there:
                found.append(PurgeRemains(where=replica.address, why=replica.failure))
            elif replica in behind:
                found.append(PurgeRemains(where=replica.address, why="has not applied all of the log"))
            elif why := await self._compact(replica, targets):
                found.append(PurgeRemains(where=replica.address, why=why))
        return found

    async def _clean_store(self, targets: Mapping[int, int]) -> str:
        """Have the store cleaned in the background; returns why it is not clean yet, or nothing."""
        if self._cleaning is not None and not self._cleaning.done():
            return "is written anew"
        clean = await self._journal.read(self._journal.store.clean, targets)
        if all(clean.get(uid, seq) >= seq for uid, seq in targets.items()):
            self._failure = ""
            return ""
        failure, self._failure = self._failure, ""
        self._cleaning = asyncio.create_task(self._clean(targets))
        return failure or "is written anew"

    async def _clean(self, targets: Mapping[int, int]) -> None:
        try:
            for uid, seq in targets.items():
                await self._purge(uid, seq)
            await self._journal.change(self._journal.store.rewrite)
        except VitrailError as error:
            self._failure = str(error)

    async def _purge(self, uid: int, up_to: int) -> None:
        while await self._journal.change(self._journal.store.purge, uid, up_to):
            pass

    async def _compact(self, replica: Replica, targets: Mapping[int, int]) -> str:
        """Have a replica compact; returns why it is not clean yet, or nothing."""
        partitions = {uid: replica.partition(uid) for uid in targets}
        dirty = {uid: seq for uid, seq in targets.items() if (found := partitions[uid]) and found.clean_seq < seq}
        try:
            for uid, seq in dirty.items():
                request = CompactRequest(collection_uid=uid, seq=seq)
                await replica.stub.Compact(request, timeout=PROBE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return reason(error)
        busy = {found.busy for uid in dirty if (found := partitions[uid]) and found.busy}
        return ", ".join(sorted(busy)) or ("is to compact" if dirty else "")

    def _notes(self, replicas: list[Replica]) -> list[str]:
        has_snapshots = any(replica.status and replica.status.has_snapshots for replica in replicas)
        return [POSTGRESQL_NOTE] * self._journal.store.is_shared + [SNAPSHOTS_NOTE] * has_snapshots
