"""Replicas and layouts that follow the same log through restarts, compared by their digests."""

import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from tests.e2e.parts import Parts, wait_serving
from tests.e2e.running import eventually, wait_applied
from tests.long.table import Row, counted
from vitrail.client import Client, Record
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.digests import digest
from vitrail.rpc.slots import SLOTS
from vitrail.v1.log_pb2 import FollowRequest
from vitrail.v1.log_pb2_grpc import LogServiceStub
from vitrail.v1.shard_pb2 import GetDigestsRequest, GetDigestsResponse
from vitrail.v1.shard_pb2_grpc import ShardServiceStub

NAME, DIMENSION, TRAIN_AT = "c", 16, 5000
LAYOUTS, REPLICAS = (1, 2), 2
IDS = 100_000
BATCH = 500
KINDS = {"upserts": 6, "changes of attributes": 1, "deletions": 2, "deletions by filter": 0.05}
"""How often each is chosen."""
GROUPS = 1000
"""Values of the attribute that is filtered by."""

Sums = NDArray[np.uint64]


class Writing(threading.Thread):
    """Somebody who does so many things, in an order that the seed decides."""

    def __init__(self, address: str, operations: int, seed: int) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()
        self._address, self._operations = address, operations
        self._chance, self._random = random.Random(seed), np.random.default_rng(seed)

    def run(self) -> None:
        with Client(self._address, timeout=120, retries=100) as client:
            while self.done.total() < self._operations:
                (kind,) = self._chance.choices(list(KINDS), list(KINDS.values()))
                self.done[kind] += self._do(client, kind)

    def _do(self, client: Client, kind: str) -> int:
        """Do it to some records; returns to how many."""
        ids = [f"r{number}" for number in self._chance.sample(range(IDS), BATCH)]
        attributes = [{"n": self._chance.randrange(GROUPS)} for _ in ids]
        match kind:
            case "upserts":
                vectors = self._random.normal(size=(BATCH, DIMENSION)).astype(np.float32)
                client.upsert(NAME, ids=ids, vectors=vectors, attributes=attributes)
            case "changes of attributes":
                missing = client.upsert(NAME, map(_changed, ids, attributes)).errors
                return BATCH - len(missing)
            case "deletions":
                return client.delete(NAME, ids=ids).deleted
            case _:
                return client.delete(NAME, filter=f"n = {self._chance.randrange(GROUPS)}").deleted
        return BATCH


def mixed(directory: Path, operations: int, restarts: int, seed: int) -> Row:
    """Write, while a random process is killed or ended and started again, over and over."""
    chance = random.Random(seed)
    with Parts(directory, str(directory / "store"), LAYOUTS, replicas=REPLICAS) as parts:
        parts.start_coordinator()
        for count in LAYOUTS:
            parts.start_layout(count)
        with Client(parts.address, timeout=60) as client:
            uid = client.create_collection(NAME, dimension=DIMENSION, train_at=TRAIN_AT).uid
            client.set_shards(LAYOUTS[0])
            wait_serving(client, LAYOUTS[0])
            writing = Writing(parts.address, operations, seed)
            writing.start()
            for number in range(restarts):
                while writing.is_alive() and writing.done.total() < operations * (number + 1) // (restarts + 1):
                    time.sleep(0.01)
                _restart(parts, chance)
            writing.join()
            stats = wait_applied(client, NAME)
        log = _log(parts.address, uid)
        held = {place: _held(process.address, uid) for place, process in parts.shards.items()}
    wrong = [place for place, (begin, sums) in held.items() if not np.array_equal(sums, log[begin : begin + len(sums)])]
    return Row(
        f"{writing.done.total():,} operations ({counted(writing.done)}), while a random process of {1 + len(held)} is"
        f" killed with -9 or ended, and started again, {restarts} times",
        str(seed),
        "replicas and layouts hold the same: what the log says",
        f"{len(held) - len(wrong)} of {len(held)} processes ({REPLICAS} replicas, layouts of"
        f" {' and '.join(map(str, LAYOUTS))} shards) have the digests of the log in all of their slots;"
        f" {stats.records:,} records up to {stats.seq:,}",
        not wrong and not writing.is_alive() and writing.done.total() >= operations,
    )


def _restart(parts: Parts, chance: random.Random) -> None:
    how = chance.choice([signal.SIGKILL, signal.SIGTERM])
    place = chance.choice([None, *parts.shards])
    if place is None:
        parts.coordinators[0].end(how)
        parts.start_coordinator()
    else:
        parts.shards[place].end(how)
        parts.start_shard(place)


def _changed(record_id: str, attributes: dict[str, int]) -> Record:
    return Record(record_id, attributes=attributes)


def _log(address: str, uid: int) -> Sums:
    """The digest of each slot, of the records as the log has them."""
    sums = [0] * SLOTS
    with grpc.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        for event in LogServiceStub(channel).Follow(FollowRequest(slot_end=SLOTS)):
            for row in event.rows.rows:
                if not row.deleted:
                    sums[row.slot] += digest(row.id.encode(), row.seq, row.vector, row.attributes)
            if event.checkpoint.collection_uid == uid:
                break
    return np.array([total % 2**64 for total in sums], np.uint64)


def _held(address: str, uid: int) -> tuple[int, Sums]:
    """The first slot of a process, and the digest of each."""
    found: list[GetDigestsResponse] = []
    with grpc.insecure_channel(address) as channel:
        stub = ShardServiceStub(channel)

        def tells() -> bool:
            try:
                found.append(stub.GetDigests(GetDigestsRequest(collection_uid=uid)))
            except grpc.RpcError:  # it was started again, and has not heard from the log yet
                return False
            return True

        eventually(tells)
    return found[0].slot_begin, np.frombuffer(found[0].sums, "<u8")
