"""Quarantine: a process that holds other records than the store is found, not asked any more, and rebuilt.

Replicas and layouts are compared with each other in every slot, which costs the store nothing. Where two differ, the
store says which of them is wrong; and it is asked for one more slot each time, whoever holds it, so that a shard
without a replica is found too. While the store is away nobody is judged.

A round costs a shard with a million records 12 ms, where there were writes since the last one, and the store 0.1 s for
each slot that it is asked for.
"""

import asyncio
import random
import time
from itertools import combinations, cycle

import grpc
import structlog

from vitrail.rpc.errors import Unavailable
from vitrail.rpc.slots import SLOTS
from vitrail.server import metrics
from vitrail.server.digests import Held, ask, compare, read_slot
from vitrail.server.journal import Journal
from vitrail.server.topology import Diverged, Replica, Topology, reason
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.shard_pb2 import RebuildRequest

log = structlog.get_logger()

ROUND_SECONDS = 2.0
# Of the time, that rounds may take: with many records they come less often.
SHARE = 0.02
ASK_TIMEOUT = 5.0
# Slots in which replicas differ that the store is asked for in one round: one that is wrong is enough.
FEW = 4


class Quarantine:
    """Compares what all processes hold of each collection, again and again."""

    def __init__(self, journal: Journal, topology: Topology) -> None:
        self._journal = journal
        self._topology = topology
        self._slots = cycle(random.sample(range(SLOTS), SLOTS))

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            start = time.monotonic()
            await self.compare_all()
            spent = time.monotonic() - start
            await asyncio.sleep(max(ROUND_SECONDS, spent / SHARE - spent))

    async def compare_all(self) -> None:
        """Compare every collection once."""
        collections = self._journal.catalog.all()
        there = {collection.uid for collection in collections}
        for replica in self._topology.replicas:
            for uid in replica.diverged.keys() - there:
                replica.agree(uid)
        suspects = 0
        for collection in collections:
            suspects += await self._compare(collection)
        metrics.DIGEST_SUSPECTS.set(suspects)

    async def _compare(self, collection: Collection) -> int:
        """Compare one collection. Returns in how many slots replicas differed."""
        uid = collection.uid
        held = await self._ask_all(uid)
        suspects = sorted({slot for pair in combinations(held.values(), 2) for slot in compare(*pair).different})
        slots = {*random.sample(suspects, min(FEW, len(suspects))), next(self._slots)}
        was_wrong = {replica.diverged[uid].slot for replica in held if uid in replica.diverged}
        try:
            for slot in [*(slots - was_wrong), *was_wrong]:  # those last in which one may be proved right again
                truth = await self._journal.read(read_slot, self._journal.store, uid, slot)
                if truth is not None:
                    await self._judge(collection, truth, held)
        except Unavailable as error:
            if suspects:
                log.warning("replicas differ, and the store is away", collection=collection.name, why=str(error))
        return len(suspects)

    async def _ask_all(self, uid: int) -> dict[Replica, Held]:
        """What each process holds, but for those that are still to be rebuilt; they are told so again."""
        replicas = list(self._topology.replicas)
        answers = await asyncio.gather(*(ask(replica, uid, ASK_TIMEOUT) for replica in replicas))
        held = {}
        for replica, answer in zip(replicas, answers, strict=True):
            was_wrong = replica.diverged.get(uid)
            if answer and was_wrong and was_wrong.life == answer.life:
                await _rebuild(replica, uid, answer.life)
            elif answer:
                held[replica] = answer
        return held

    async def _judge(self, collection: Collection, truth: Held, held: dict[Replica, Held]) -> None:
        """Compare everyone with the store; who is found wrong is held no more, who was and is right comes back."""
        uid, slot = collection.uid, truth.begin
        for replica, one in list(held.items()):
            compared, was_wrong = compare(one, truth), replica.diverged.get(uid)
            metrics.DIGEST_COMPARISONS.inc(len(compared.equal) + len(compared.different))
            # A place that the store does not know is of another history, and the log sees to it.
            is_wrong = bool(compared.different) and await self._journal.read(self._journal.store.knows, one.applied)
            if is_wrong:
                metrics.DIGEST_MISMATCHES.inc()
                log.error(
                    "holds other records than the store", address=replica.address, collection=collection.name, slot=slot
                )
                replica.diverge(uid, Diverged(one.life, slot))
                await _rebuild(replica, uid, one.life)
                del held[replica]
            elif compared.equal and was_wrong and was_wrong.slot == slot:
                log.info("holds what the store does again", address=replica.address, collection=collection.name)
                replica.agree(uid)


async def _rebuild(replica: Replica, uid: int, life: str) -> None:
    try:
        await replica.stub.Rebuild(RebuildRequest(collection_uid=uid, life=life), timeout=ASK_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        log.warning("cannot have it rebuilt", address=replica.address, why=reason(error))
    except grpc.aio.UsageError:  # it was forgotten meanwhile, and its channel closed
        log.warning("cannot have it rebuilt", address=replica.address, why="it is no part of the cluster any more")
