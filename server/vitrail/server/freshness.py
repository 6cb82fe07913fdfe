"""Reading what was written: a search that names a `seq` waits until the shards have applied the log so far."""

import asyncio
from collections.abc import Sequence

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, NotFound, Unavailable
from vitrail.server.journal import Journal
from vitrail.server.topology import Replica, Topology

# How often a shard that is behind is asked again.
ASK_SECONDS = 0.01


async def wait_applied(journal: Journal, topology: Topology, uid: int, seq: int, deadline: Deadline) -> None:
    """Wait until every replica that may be asked has applied a collection's log up to `seq`.

    Raises:
        NotFound: The collection was deleted.
        FailedPrecondition: The log does not go that far: the store went back in time, or `seq` is not of this one.
        Unavailable: A replica did not get there in time.
    """
    checked = False
    while behind := _behind(topology, uid, seq):
        if not checked:
            await _check(journal, uid, seq)
            checked = True
        if deadline.expired:
            raise Unavailable(_said(behind, uid, seq), retry_after=ASK_SECONDS)
        await asyncio.gather(*map(topology.probe, behind))
        await asyncio.sleep(ASK_SECONDS)


async def _check(journal: Journal, uid: int, seq: int) -> None:
    heads = await journal.read(journal.store.heads)
    if uid not in heads.collections:
        raise NotFound("the collection was deleted", field="collection")
    _, head = heads.collections[uid]
    if seq > head:
        raise FailedPrecondition(f"the log ends at {head:,}, before {seq:,}", field="min_seq")


def _behind(topology: Topology, uid: int, seq: int) -> list[Replica]:
    replicas = [replica for shard in topology.shards for replica in shard.replicas]
    return [each for each in replicas if not each.failure and each.applied.get(uid, 0) < seq]


def _said(behind: Sequence[Replica], uid: int, seq: int) -> str:
    places = ", ".join(f"{each.address} at {each.applied.get(uid, 0):,}" for each in behind)
    return f"not everything up to {seq:,} can be searched yet: {places}"
