"""The ids of all records that meet a filter: what every shard says, once it has applied all that was written before."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import NotFound, Unavailable
from vitrail.server.journal import Journal
from vitrail.server.topology import Replica, Shard, Topology, reason
from vitrail.v1.filter_pb2 import Filter
from vitrail.v1.shard_pb2 import MatchIdsRequest, MatchIdsResponse

ASK_AGAIN_SECONDS = 0.05
# Of the time that a caller has left, that which may be waited for shards; the rest is for what comes after.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Match:
    """What one shard found, in the state that its partition had at `seq`."""

    ids: list[str]
    seq: int


async def match(
    journal: Journal, topology: Topology, collection_uid: int, condition: Filter, deadline: Deadline
) -> list[Match]:
    """Ask every shard for the ids of the records that meet a filter, all that was written before the call included.

    Raises:
        NotFound: The collection was deleted.
        Unavailable: A shard cannot be reached, or did not catch up in time.
    """
    heads = await journal.read(journal.store.heads)
    if collection_uid not in heads.collections:
        raise NotFound("the collection was deleted")
    if not topology.shards:
        raise Unavailable("no shard was heard of yet", retry_after=1.0)
    _, head = heads.collections[collection_uid]
    request = MatchIdsRequest(collection_uid=collection_uid, filter=condition)
    until = Deadline.after(SHARE * deadline.remaining)
    asked = [asyncio.create_task(_caught_up(journal, shard, request, head, until)) for shard in topology.shards]
    try:
        return await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()


async def _caught_up(journal: Journal, shard: Shard, request: MatchIdsRequest, head: int, until: Deadline) -> Match:
    """Ask the replicas of one shard until what one says is of the head or later."""
    unreachable: list[Replica] = []
    why = shard.failure
    while True:
        replica = shard.pick(but=unreachable, silent=True)
        if replica is None:
            raise Unavailable(f"shard {shard.index}: {why}", retry_after=1.0)
        try:
            found = await _ask(journal, replica, request, head, until)
        except grpc.aio.AioRpcError as error:
            why = reason(error)
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                unreachable.append(replica)
                continue
        else:
            if found is not None:
                return found
            why = "is behind the store"
        if until.remaining <= ASK_AGAIN_SECONDS:
            raise Unavailable(f"shard {shard.index}: {why}")
        await asyncio.sleep(ASK_AGAIN_SECONDS)


async def _ask(
    journal: Journal, replica: Replica, request: MatchIdsRequest, head: int, until: Deadline
) -> Match | None:
    """What one replica says; None where that is not of the head, or not of the store's own history."""
    call = replica.stub.MatchIds(request, timeout=until.remaining)
    pages: AsyncIterator[MatchIdsResponse] = aiter(call)
    ids: list[str] = []
    applied = None
    try:
        async for page in pages:
            if applied is None:
                applied = page.applied
                if applied.seq < head or not await journal.read(journal.store.knows, applied):
                    return None
            ids.extend(page.ids)
    finally:
        call.cancel()
    return None if applied is None else Match(ids, applied.seq)
