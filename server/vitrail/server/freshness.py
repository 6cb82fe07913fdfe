"""Reading what was written: a search that names a `seq` waits until the shards have applied the log so far.

A version of a collection that is to serve waits for more: until they search it as fast as they will.
"""

import asyncio
from collections.abc import Sequence

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, NotFound, Unavailable
from vitrail.server.journal import Journal
from vitrail.server.topology import Replica, Topology
from vitrail.v1.collection_pb2 import Collection

# How often a shard that is behind is asked again.
ASK_SECONDS = 0.01
TRAINING_SECONDS = 0.25


async def wait_applied(
    journal: Journal, topology: Topology, uid: int, seq: int, deadline: Deadline, mark: int = 0
) -> None:
    """Wait until every replica that may be asked has applied a collection's log up to `seq`.

    Args:
        journal: The way to the store.
        topology: The replicas.
        uid: Of the collection.
        seq: Of the log.
        deadline: Until when to wait.
        mark: What the store left beside `seq`. With it, the store is asked: that write must be of its own history, and
            so must be what replicas have applied. 0 to go by the number alone.

    Raises:
        NotFound: The collection was deleted.
        FailedPrecondition: The log does not go that far: the store went back in time, or `seq` is not of this one.
        Unavailable: A replica did not get there in time, or the store is needed and away.
    """
    if mark and not await journal.read(journal.store.knows_write, uid, seq, mark):
        raise FailedPrecondition(
            f"the store does not know the write at {seq:,}: it went back in time, or that was too long ago",
            field="min_mark",
        )
    checked = False
    while behind := _behind(topology, uid, seq) or (mark and await _strangers(journal, topology, uid)):
        if not checked:
            await _check(journal, uid, seq)
            checked = True
        if deadline.expired:
            raise Unavailable(_said(behind, uid, seq), retry_after=ASK_SECONDS)
        await asyncio.gather(*map(topology.probe, behind))
        await asyncio.sleep(ASK_SECONDS)


async def wait_settled(topology: Topology, collection: Collection, deadline: Deadline) -> None:
    """Wait until no replica that may be asked has more records of a collection than one that is not trained should.

    Raises:
        Unavailable: One did not get there in time.
    """
    while training := [each.address for each in _asked(topology) if not each.is_settled_in(collection)]:
        if deadline.expired:
            raise Unavailable(
                f"its first index is not trained yet: {', '.join(training)}", retry_after=TRAINING_SECONDS
            )
        await asyncio.sleep(min(TRAINING_SECONDS, deadline.remaining))  # they are probed meanwhile


async def _check(journal: Journal, uid: int, seq: int) -> None:
    heads = await journal.read(journal.store.heads)
    if uid not in heads.collections:
        raise NotFound("the collection was deleted", field="collection")
    _, head = heads.collections[uid]
    if seq > head:
        raise FailedPrecondition(f"the log ends at {head:,}, before {seq:,}", field="min_seq")


def _behind(topology: Topology, uid: int, seq: int) -> list[Replica]:
    return [each for each in _asked(topology) if each.applied_seq(uid) < seq]


async def _strangers(journal: Journal, topology: Topology, uid: int) -> list[Replica]:
    """The replicas that have applied what the store does not know: they will be told to begin again."""
    asked = _asked(topology)
    known = {}
    for place in {(cursor.seq, cursor.mark): cursor for each in asked for cursor in [each.applied[uid]]}.values():
        known[place.seq, place.mark] = await journal.read(journal.store.knows, place)
    return [each for each in asked if not known[each.applied[uid].seq, each.applied[uid].mark]]


def _asked(topology: Topology) -> list[Replica]:
    return [replica for shard in topology.shards for replica in shard.replicas if not replica.failure]


def _said(behind: Sequence[Replica], uid: int, seq: int) -> str:
    places = ", ".join(f"{each.address} at {each.applied_seq(uid):,}" for each in behind)
    return f"not everything up to {seq:,} can be searched yet: {places}"
