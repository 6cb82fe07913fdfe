"""The shards: what each process last said of itself, and which of them can be asked now.

Each process says which shard it is and of how many, so addresses have no order. Those that say the same are replicas
of one shard; those that say another number of shards are another layout, and one layout serves at a time.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc
import structlog
from prometheus_client import Histogram

from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.errors import FailedPrecondition
from vitrail.rpc.protocol import check, this_program
from vitrail.server import metrics
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.shard_pb2 import GetStatusRequest, GetStatusResponse, PartitionStatus
from vitrail.v1.shard_pb2_grpc import ShardServiceStub
from vitrail.v1.types_pb2 import Program

if TYPE_CHECKING:
    from vitrail.v1.shard_pb2_grpc import ShardServiceAsyncStub

log = structlog.get_logger()

PROBE_SECONDS = 0.25
PROBE_TIMEOUT = 1.0
FORGET_SECONDS = 10.0
# A replica with so many batches overdue is asked only where there is no other one; and where nothing was heard of it
# for so long, not at all until a probe answers. A machine that is busy is late, too, and to leave a shard out costs
# the answers their coverage.
MAX_OVERDUE, SILENT_SECONDS = 2, 0.5
NEVER_HEARD, CATCHING_UP = "not yet heard of", "still catching up with the log"
TRAINING = "still training its first index"
QUARANTINED = "quarantined, since it held other records than the store"
NO_REPLICA = "no process has this place"


class Diverged(NamedTuple):
    """Where a partition held other records than the store."""

    life: str
    """Of the partition: another one after each rebuild."""
    slot: int


@dataclass(slots=True, eq=False)
class Replica:
    """One shard process as the coordinator knows it."""

    address: str
    channel: grpc.aio.Channel
    failure: str = NEVER_HEARD
    """Why it did not answer a probe, is not ready, or is quarantined; else empty."""
    status: GetStatusResponse | None = None
    """None where it was never heard, or is not understood."""
    program: Program = field(default_factory=Program)
    """What runs there, as last heard."""
    records: dict[int, int] = field(default_factory=dict)
    """Live records by collection uid, as last heard in a status or an answer."""
    applied: dict[int, Cursor] = field(default_factory=dict)
    """Of each collection by uid, up to where it has applied the log, as last heard."""
    outstanding: int = 0
    """Batches that it was asked and has not answered."""
    is_settled: bool = False
    """Whether no partition compares each of its records only since its first index is not trained yet."""
    overdue: int = 0
    """Those of them that nobody waits for any more, and those that another replica answered sooner."""
    heard_at: float = 0.0
    """When it last answered anything, on the clock of `time.monotonic`."""
    diverged: dict[int, Diverged] = field(default_factory=dict)
    """By collection uid, where it held other records than the store: it is quarantined while there are any."""
    stub: "ShardServiceAsyncStub" = field(init=False)
    _times: Histogram | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.stub = ShardServiceStub(self.channel)

    @property
    def metrics_address(self) -> str:
        """Where its metrics are, as HOST:PORT; empty where it was never heard."""
        return f"{self.address.rpartition(':')[0]}:{self.status.metrics_port}" if self.status else ""

    @property
    def place(self) -> tuple[int, int] | None:
        """Which shard it says that it is, and of how many; None where it never did, or there is no such place."""
        if self.status is None or not 0 <= self.status.shard < self.status.shards:
            return None
        return self.status.shard, self.status.shards

    def partition(self, uid: int) -> PartitionStatus | None:
        """What it last said of one collection."""
        partitions = self.status.partitions if self.status else ()
        return next((partition for partition in partitions if partition.collection_uid == uid), None)

    def is_settled_in(self, collection: Collection) -> bool:
        """Whether it has an index of a collection that is large enough for one."""
        partition = self.partition(collection.uid)
        return partition is None or partition.state == "trained" or partition.records < collection.train_at

    def reached(self, uid: int) -> int:
        """Up to which `seq` of a collection it has gone, be it in a pass over the log that is not complete yet."""
        partition = self.partition(uid)
        return max(self.applied_seq(uid), partition.reached if partition else 0)

    def applied_seq(self, uid: int) -> int:
        """Up to which `seq` of a collection it has applied the log, as last heard."""
        return self.applied[uid].seq if uid in self.applied else 0

    def heard(self, status: GetStatusResponse) -> None:
        """Take what it says of itself."""
        self.heard_at = time.monotonic()
        before, self.status = self.place, status
        if self.place != before:
            self.forget_times()
            if self.place:
                shard, shards = self.place
                self._times = metrics.REPLICA_SECONDS.labels(shards, shard, self.address)
        self.records = {
            partition.collection_uid: partition.records
            for partition in status.partitions
            if partition.applied.seq or status.ready
        } | {  # of one that is built from nothing what it held before, since it will again
            partition.collection_uid: self.records[partition.collection_uid]
            for partition in status.partitions
            if not (partition.applied.seq or status.ready) and partition.collection_uid in self.records
        }
        self.applied = {partition.collection_uid: partition.applied for partition in status.partitions}
        self.is_settled = all(map(self.is_settled_in, status.collections))
        self.failure = QUARANTINED if self.diverged else "" if status.ready else CATCHING_UP
        self.overdue = 0

    def lost(self, why: str) -> None:
        """It did not answer; it is asked again."""
        if not self.failure:
            log.warning("lost a shard", address=self.address, why=why)
        self.failure = why

    def refuse(self, why: str) -> None:
        """Ask it nothing: one of the two does not understand the other."""
        if self.failure != why:
            log.warning("cannot talk to a shard", address=self.address, why=why)
        self.status, self.failure = None, why
        self.forget_times()

    def took(self, seconds: float) -> None:
        """Count the time of an answer."""
        if self._times is not None:
            self._times.observe(seconds)

    def forget_times(self) -> None:
        self._times = None
        metrics.REPLICA_SECONDS.remove_by_labels({"address": self.address})

    def diverge(self, uid: int, diverged: Diverged) -> None:
        """Quarantine it."""
        self.diverged[uid] = diverged
        self.failure = QUARANTINED

    def agree(self, uid: int) -> None:
        """Of this collection it holds what the store does; the next probe finds it."""
        self.diverged.pop(uid, None)

    @property
    def answers(self) -> bool:
        """Whether it answered the last probe."""
        return self.failure in ("", CATCHING_UP, QUARANTINED)

    @property
    def is_silent(self) -> bool:
        """Whether it seems to have stopped: late again and again, and not heard of."""
        return self.overdue >= MAX_OVERDUE and time.monotonic() - self.heard_at >= SILENT_SECONDS

    @property
    def is_ready(self) -> bool:
        """Whether it has caught up. That it failed does not count, since asking is how it comes back."""
        return self.status is not None and self.status.ready


@dataclass(slots=True, eq=False)
class Shard:
    """One shard of a layout, with the replicas that say that they are it."""

    index: int
    replicas: list[Replica] = field(default_factory=list)

    @property
    def failure(self) -> str:
        """Why none of its replicas can be asked, or empty."""
        failures = [replica.failure for replica in self.replicas]
        return "" if "" in failures else next(iter(failures), NO_REPLICA)

    @property
    def can_be_asked(self) -> bool:
        return self.pick() is not None

    def records(self, uid: int) -> int | None:
        """How many it was last heard to hold of a collection, where it ever was."""
        heard = (replica.records.get(uid) for replica in self.replicas)
        return max((records for records in heard if records is not None), default=None)

    def pick(self, but: Container[Replica] = (), silent: bool = False) -> Replica | None:
        """The replica to ask: with the fewest batches outstanding, among those that work and are trained if there are.

        One that is quarantined is never asked.

        Args:
            but: Not one of these.
            silent: Or one that is silent.
        """
        able = [
            each for each in self.replicas if each not in but and not each.diverged and (silent or not each.is_silent)
        ]
        return min(
            able,
            key=lambda each: (
                each.overdue >= MAX_OVERDUE,
                not each.is_ready,
                bool(each.failure),
                not each.is_settled,
                each.outstanding,
                random.random(),
            ),
            default=None,
        )


class Topology:
    """All processes, and the layout that serves. `run` asks each for its status, again and again."""

    def __init__(self, addresses: Iterable[str], wanted: Callable[[], int] = lambda: 0) -> None:
        """Nothing is asked yet.

        Args:
            addresses: Of all processes, in any order, as far as they are known.
            wanted: Tells how many shards are to serve; 0 where nobody said.
        """
        self._wanted = wanted
        self.replicas: list[Replica] = []
        self.shards: list[Shard] = []
        """Of the layout that serves, in the order of their index; none until a process was heard."""
        self._places: list[tuple[int, int] | None] = []
        self._is_there = asyncio.Event()
        self._is_whole = asyncio.Event()
        self._probing: asyncio.TaskGroup | None = None
        self._probes: dict[Replica, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.use(addresses)

    def use(self, addresses: Iterable[str]) -> None:
        """Know the processes at these addresses from now on, and no others."""
        wanted = dict.fromkeys(addresses)  # in their order
        known = {replica.address for replica in self.replicas}
        gone = [replica for replica in self.replicas if replica.address not in wanted]
        new = [
            Replica(address, grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS))
            for address in wanted
            if address not in known
        ]
        if not new and not gone:
            return
        self.replicas = [replica for replica in self.replicas if replica.address in wanted] + new
        self._arrange()
        for replica in new:
            self._keep_probing(replica)
        for replica in gone:
            self._forget(replica)

    def in_order(self) -> list[Replica]:
        """The processes by layout, then by shard; but for those of a layout that does not serve, and that are gone."""
        there = [
            each
            for each in self.replicas
            if each.answers or each.place is None or each.place[1] in (len(self.shards), self._wanted())
        ]
        return sorted(there, key=lambda each: (each.place is None, (each.place or (0, 0))[::-1]))

    def catalog(self) -> tuple[int, Sequence[Collection]]:
        """The newest catalog that a shard has told of, with its `seq`; (0, ()) where none has."""
        statuses = [replica.status for replica in self.replicas if replica.status]
        newest = max(statuses, key=lambda status: status.catalog_seq, default=None)
        return (newest.catalog_seq, newest.collections) if newest else (0, ())

    async def run(self) -> None:
        """Probe all processes until cancelled."""
        async with asyncio.TaskGroup() as self._probing:
            for replica in self.replicas:
                self._keep_probing(replica)
            await asyncio.Event().wait()

    async def wait_any(self, seconds: float) -> bool:
        """Wait until there is a process that can be asked, but not for ever; returns whether there is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_there.wait(), seconds)
        return self._is_there.is_set()

    async def wait_ready(self, seconds: float) -> None:
        """Wait until there is a layout with all of its shards at hand, but not for ever: one may be dead."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_whole.wait(), seconds)

    async def probe_all(self) -> None:
        """Ask every process for its status now."""
        await asyncio.gather(*map(self.probe, self.replicas))

    async def probe(self, replica: Replica) -> None:
        """Ask one process for its status now."""
        try:
            status = await replica.stub.GetStatus(GetStatusRequest(program=this_program()), timeout=PROBE_TIMEOUT)
            replica.program = status.program
            check(status.program, "the shard")
        except FailedPrecondition as error:
            replica.refuse(error.message)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                replica.refuse(error.details() or "")
            else:
                replica.lost(reason(error))
        else:
            if replica.failure:
                log.info("found a shard", address=replica.address, shard=status.shard, shards=status.shards)
            replica.heard(status)
        self._arrange()
        metrics.REPLICA_REACHABLE.labels(replica.address).set(replica.answers)
        metrics.REPLICA_QUARANTINED.labels(replica.address).set(bool(replica.diverged))

    async def close(self) -> None:
        await asyncio.gather(*(replica.channel.close() for replica in self.replicas), *self._closing)

    def _keep_probing(self, replica: Replica) -> None:
        if self._probing is not None:
            self._probes[replica] = self._probing.create_task(self._probe_for_ever(replica))

    def _forget(self, replica: Replica) -> None:
        """Ask it nothing more; what it was asked it may still answer."""
        log.info("forgot a shard", address=replica.address)
        if probe := self._probes.pop(replica, None):
            probe.cancel()
        closing = asyncio.create_task(replica.channel.close(FORGET_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        for gauge in (metrics.REPLICA_REACHABLE, metrics.REPLICA_QUARANTINED):
            gauge.remove(replica.address)
        replica.forget_times()

    async def _probe_for_ever(self, replica: Replica) -> None:
        while True:
            await self.probe(replica)
            await asyncio.sleep(PROBE_SECONDS)

    def _arrange(self) -> None:
        """Choose the layout with the most of its shards at hand, then with the most of them settled.

        Where several are as good it is the one that is wanted, or else the one that serves.
        """
        places = [replica.place for replica in self.replicas]
        layouts = {place[1] for place in places if place}
        there = [(replica, replica.place) for replica in self.replicas if replica.place and not replica.failure]
        at_hand = Counter(count for _, count in {place for _, place in there})
        settled = Counter(count for _, count in {place for replica, place in there if replica.is_settled})
        if there:
            self._is_there.set()
        if any(at_hand[count] == count for count in layouts):
            self._is_whole.set()
        serving, wanted = len(self.shards), self._wanted()
        best = max(
            layouts,
            key=lambda count: (
                at_hand[count] / count,
                settled[count] / count,
                count == wanted,
                count == serving,
            ),
            default=serving,
        )
        if best == serving and places == self._places:
            return
        self._places = places
        if best != serving:
            log.info("another layout serves", shards=best, instead_of=serving)
        self.shards = [
            Shard(index, [each for each in self.replicas if each.place == (index, best)]) for index in range(best)
        ]


def reason(error: grpc.aio.AioRpcError) -> str:
    """Why a shard did not answer, in a word or two."""
    return {
        grpc.StatusCode.UNAVAILABLE: "unreachable",
        grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    }.get(error.code(), error.code().name.lower())
