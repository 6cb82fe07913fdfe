"""Kill -9 of a shard, or of the process that builds for it, in the middle of something; and what comes back."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args
from uuid import uuid4

import grpc
import numpy as np
import psutil

from tests.e2e.running import Running, eventually, wait_applied, wait_trained
from tests.e2e.searching import Searching
from tests.shard.rows import clustered
from vitrail.client import Client, PartitionStats
from vitrail.shard import manifest
from vitrail.shard.bitmap import count
from vitrail.shard.wanted import COMPACT_ROWS
from vitrail.v1.filter_pb2 import Comparison, ComparisonOperator, Filter
from vitrail.v1.shard_pb2 import MatchIdsRequest
from vitrail.v1.shard_pb2_grpc import ShardServiceStub
from vitrail.v1.types_pb2 import Value

Phase = Literal[
    "folding", "training", "compacting", "publishing", "training, the child alone", "compacting, the child alone"
]
PHASES: tuple[Phase, ...] = get_args(Phase)

DIMENSION = 64
RECORDS, MORE = 3000, 4000
DELETED = range(2600)
MEANWHILE = 200
SHARD = "shard-0"
ALL = Filter(
    comparison=Comparison(
        attribute="n", operator=ComparisonOperator.COMPARISON_OPERATOR_GREATER_OR_EQUAL, value=Value(integer_value=0)
    )
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back."""

    phase: Phase
    published: int
    """Records of the shard's partition as its manifest tells after the kill."""
    opened: int
    """Records that it served when it was back; where only the child was killed, as many as before."""
    seconds: float
    """Until it had caught up with what was written meanwhile, and done what a child had been killed over."""
    missing: int
    double: int
    searches: int
    failed: list[str]
    """Searches that failed while this went on."""
    coverage: float
    """The least that an answer said it covered."""


class Killing:
    """One collection that is brought to a phase, and whose shard is killed there."""

    def __init__(self, running: Running, client: Client) -> None:
        self.running = running
        self.client = client
        self.name = f"c-{uuid4().hex[:8]}"
        self.collection = client.create_collection(self.name, dimension=DIMENSION, train_at=1000)
        self.directory = running.data / "shards" / "0-of-2" / str(self.collection.uid)
        self.seed = 0
        self._writing = threading.Thread(target=self.upsert, args=(RECORDS, MORE))

    def upsert(self, first: int, records: int) -> None:
        self.seed += 1
        ids = [f"r{first + n}" for n in range(records)]
        attributes = [{"n": first + n} for n in range(records)]
        vectors = clustered(records, DIMENSION, seed=self.seed)
        assert not self.client.upsert(self.name, ids=ids, vectors=vectors, attributes=attributes).errors

    def reach(self, phase: Phase, delay: float) -> None:
        """Return in the middle of a phase, where it lasts so long some seconds after its beginning."""
        self.upsert(0, RECORDS)
        if phase.startswith("training"):
            self._wait(self.is_building)
        elif phase == "publishing":
            self._wait(lambda: self.is_building() or self.is_publishing())
            self._wait(self.is_publishing)
            return
        else:
            wait_applied(self.client, self.name)
            wait_trained(self.client, self.name)
            self._wait(lambda: not self.is_building())
            if phase == "folding":
                self._writing.start()
                self._wait(self.is_folding)
                return
            self.client.delete(self.name, ids=[f"r{n}" for n in DELETED])
            self._wait(self.is_building)
        if "child" in phase:
            self._wait(lambda: self.builders() != [])
        until = time.monotonic() + delay
        while self.is_building() and time.monotonic() < until:
            time.sleep(0.001)

    def is_building(self) -> bool:
        return next(self.directory.glob("building-*"), None) is not None

    def is_publishing(self) -> bool:
        return next(self.directory.glob("*.tmp"), None) is not None

    def is_folding(self) -> bool:
        return self.client.stats(self.name).partitions[0].tail >= 256

    def end_writing(self) -> None:
        if self._writing.ident is not None:
            self._writing.join()

    def builders(self) -> list[psutil.Process]:
        """The processes that build for the shard."""
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            children = self.running.children()[SHARD].children()
            return [child for child in children if "vitrail.shard.building" in child.cmdline()]
        return []

    def published(self) -> int:
        """The records of what is on disk, while nobody writes there."""
        found = manifest.read(self.directory)
        if found is None:
            return 0
        live = np.frombuffer((self.directory / found.live.name).read_bytes(), np.uint8)
        return count(live)

    def opened(self, log_from: int) -> int:
        """With how many records the shard opened it again; -1 where it did not, or threw it away."""
        lines = self.running.log.read_text()[log_from:].splitlines()
        if any("deleted a" in line for line in lines):
            return -1
        wanted = f"collection={self.name} "
        return next(
            (int(line.split("records=")[1].split()[0]) for line in lines if "opened" in line and wanted in line), -1
        )

    def _wait(self, condition: Callable[[], bool], patience: float = 30.0) -> None:
        """As `eventually`, but in a hurry."""
        until = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < until, f"never: {condition}"


@contextlib.contextmanager
def killing(running: Running, client: Client) -> Iterator[Killing]:
    """A collection of its own, deleted afterwards."""
    made = Killing(running, client)
    yield made
    client.delete_collection(made.name)


def kill(running: Running, client: Client, phase: Phase, delay: float = 0.3) -> Outcome:
    """Kill in the middle of a phase, write more, and see what comes back."""
    with killing(running, client) as at:
        searching = Searching(running.address, at.name, clustered(50, DIMENSION, seed=9))
        try:
            at.reach(phase, delay)
            log_from = len(running.log.read_text())
            shard = running.children()[SHARD]
            reached = time.monotonic()
            if "child" in phase:
                builders = at.builders()
                if not builders:  # it was done before: kill another one sooner
                    return kill(running, client, phase, delay / 2)
                builders[0].kill()
                published = opened = client.stats(at.name).partitions[0].records
            else:
                shard.kill()
                shard.wait()
                published = at.published()
            killed = time.monotonic()
            at.end_writing()
            at.upsert(RECORDS - MEANWHILE, 2 * MEANWHILE)
            client.delete(at.name, ids=[f"r{n}" for n in range(RECORDS - MEANWHILE, RECORDS, 2)])
            stats = wait_applied(client, at.name)
            if "child" in phase:
                eventually(lambda: is_done(client.stats(at.name).partitions[0]))
            seconds = time.monotonic() - killed
            if "child" in phase:
                assert running.children()[SHARD].pid == shard.pid
            else:
                opened = at.opened(log_from)
            eventually(lambda: client.search(at.name, vector=np.ones(DIMENSION)).coverage.fraction == 1)
        finally:
            searching.stop()
        held = [record_id for ids in held_by(client, at.name) for record_id in ids]
        stored = {record.id for record in client.list(at.name)}
        assert len(stored) == stats.records
        return Outcome(
            phase=phase,
            published=published,
            opened=opened,
            seconds=seconds,
            missing=len(stored - set(held)),
            double=len(held) - len(stored & set(held)),
            searches=len(searching.seen),
            failed=[seen.failure for seen in searching.seen if seen.failure],
            coverage=min(seen.coverage for seen in searching.since(reached)),
        )


def held_by(client: Client, name: str) -> list[list[str]]:
    """Every id of every row that counts, of each process that holds some of a collection whose records have an `n`."""
    stats = client.stats(name)
    request = MatchIdsRequest(collection_uid=stats.collection.uid, filter=ALL)
    held = []
    for partition in stats.partitions:
        with grpc.insecure_channel(partition.address) as channel:
            held.append([record_id for page in ShardServiceStub(channel).MatchIds(request) for record_id in page.ids])
    return held


def is_done(partition: PartitionStats) -> bool:
    """Whether the work of a child that was killed has been done by another."""
    return partition.state == "trained" and partition.index.dead_rows < COMPACT_ROWS and not partition.busy
