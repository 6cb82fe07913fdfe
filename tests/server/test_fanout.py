"""The fan-out against real gRPC shards in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest

from tests.server.fakes import FakeShard, Floats, eventually, in_time, running, sample, serving
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded, Unavailable
from vitrail.server import topology
from vitrail.server.fanout import Answer, Fanout, Parameters
from vitrail.server.topology import Topology
from vitrail.v1.filter_pb2 import Filter

DEFAULT = Parameters(
    collection_uid=1, space="s", top_k=3, nprobe=0, rerank_factor=0.0, exact=False, attributes=False
)  # fmt: skip
NORTH, EAST = np.array([[0, 1]], np.float32), np.array([[1, 0]], np.float32)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has two batches overdue counts as silent at once, so that no test waits for it."""
    monkeypatch.setattr(topology, "SILENT_SECONDS", 0.0)


def asked_in_all(shard: FakeShard, batches: int) -> Callable[[], bool]:
    return lambda: len(shard.requests) == batches


class Searching:
    """A fan-out over some shards, and the queue's owner."""

    def __init__(self, shards: Sequence[FakeShard]) -> None:
        self.topology = Topology([shard.address for shard in shards])
        self.fanout = Fanout(self.topology, batch=64, capacity=64)

    def search(
        self, queries: Floats = NORTH, parameters: Parameters = DEFAULT, deadline: Deadline | None = None
    ) -> "asyncio.Task[Answer]":
        return asyncio.create_task(self.fanout.search(parameters, queries, deadline or in_time()))

    async def waits(self, queries: int) -> None:
        """Return once so many queries wait for the batch before."""
        await eventually(lambda: sample("vitrail_queue_depth_items", queue="search") == queries)

    async def warm_up(self) -> None:
        """Search until it has been seen that answers take milliseconds, so that a batch is overdue soon."""
        for _ in range(30):
            await self.search()


@contextlib.asynccontextmanager
async def searching(*shards: FakeShard) -> AsyncIterator[Searching]:
    for index, shard in enumerate(shards):
        shard.index, shard.shards = index, len(shards)
    async with serving(*shards):
        here = Searching(shards)
        await here.topology.probe_all()
        async with running(here.fanout.batcher):
            try:
                yield here
            finally:
                for shard in shards:
                    shard.go_on()
                await here.topology.close()


@contextlib.asynccontextmanager
async def searching_without(missing: int, *shards: FakeShard) -> AsyncIterator[Searching]:
    """As `searching`, with one of the shards dead."""
    for index, shard in enumerate(shards):
        shard.index, shard.shards = index, len(shards)
    alive = [shard for index, shard in enumerate(shards) if index != missing]
    async with serving(*alive):
        async with serving(shards[missing]):
            here = Searching(shards)
            await here.topology.probe_all()
        async with running(here.fanout.batcher):
            try:
                yield here
            finally:
                await here.topology.close()


def two_shards() -> tuple[FakeShard, FakeShard]:
    first = FakeShard(records={"a": [0.0, 1.0], "c": [0.9, 0.1]}, seq=7)
    second = FakeShard(records={"b": [0.2, 0.8], "d": [1.0, 0.0]}, seq=5)
    return first, second


async def asked(shard: FakeShard, batches: int) -> None:
    """Return once so many batches have come to a shard."""
    await eventually(lambda: len(shard.requests) == batches)


def ids(answer: Answer) -> list[list[str]]:
    return [[id for _, id, _ in hits] for hits in answer.hits]


def missing(answer: Answer) -> dict[int, str]:
    return {one.shard: one.reason for one in answer.coverage.unreachable}


async def test_all_shards_together() -> None:
    """The hits of all shards come back merged, with what they cover and how they were found."""
    async with searching(*two_shards()) as here:
        answer = await here.search()
    assert ids(answer) == [["a", "b", "c"]]
    assert [-negative_score for negative_score, _, _ in answer.hits[0]] == pytest.approx([1.0, 0.8, 0.1])
    covered, index = answer.coverage, answer.index
    assert (covered.shards_searched, covered.shards_total, covered.records_searched) == (2, 2, 4)
    assert covered.fraction == 1.0
    assert (index.space, index.seq, index.exact, index.trained, index.version) == ("s", 5, True, False, "v0+v1")
    times = answer.timings
    assert min(times.search_wait, times.fanout, times.shard, times.merge) >= 0


async def test_one_batch_in_flight() -> None:
    """What arrives while a batch is out goes as one next batch: one call a shard for all of it."""
    first, second = two_shards()
    async with searching(first, second) as here:
        first.stop()
        answers = [here.search()]
        await asked(first, 1)
        await asked(second, 1)
        answers += [here.search(NORTH), here.search(np.concatenate([EAST, NORTH])), here.search(EAST)]
        await here.waits(4)
        assert len(first.requests) == len(second.requests) == 1
        first.go_on()
        found = [ids(answer) for answer in await asyncio.gather(*answers)]
    north, east = ["a", "b", "c"], ["d", "c", "b"]
    assert found == [[north], [north], [east, north], [east]]
    for shard in (first, second):
        assert len(shard.requests) == 2
        assert [len(group.vectors) for group in shard.requests[1].groups] == [4 * 2 * 4]


async def test_grouped_by_what_is_asked() -> None:
    """Callers of one batch are searched together where they ask alike, and each gets its own."""
    first, second = two_shards()
    async with searching(first, second) as here:
        first.stop()
        before = here.search()
        await asked(first, 1)
        one = DEFAULT._replace(
            top_k=1,
            nprobe=4,
            rerank_factor=2.5,
            exact=True,
            attributes=True,
            target_recall=0.75,
            filter=Filter(is_null="price").SerializeToString(),
        )
        answers = [here.search(EAST), here.search(NORTH, one), here.search(NORTH), here.search(EAST, one)]
        await here.waits(4)
        first.go_on()
        found = [ids(answer) for answer in await asyncio.gather(*answers)]
        await before
    assert found == [[["d", "c", "b"]], [["a"]], [["a", "b", "c"]], [["d"]]]
    default, other = second.requests[1].groups
    assert (default.top_k, default.nprobe, default.exact, len(default.vectors)) == (3, 0, False, 16)
    assert (other.top_k, other.nprobe, other.exact, other.attributes, len(other.vectors)) == (1, 4, True, True, 16)
    assert (other.rerank_factor, other.target_recall, other.filter.is_null) == (2.5, 0.75, "price")
    assert not default.HasField("filter")
    assert 0 < other.timeout < 10


async def test_a_dead_shard_is_declared() -> None:
    """The others' hits come, and the answer says whose are missing and what share that is."""
    failures = sample("vitrail_fanout_failures_total", shard="1", reason="unreachable")
    async with searching_without(1, *two_shards()) as here:
        answer = await here.search()
    assert ids(answer) == [["a", "c"]]
    assert missing(answer) == {1: "unreachable"}
    covered = answer.coverage
    assert (covered.shards_searched, covered.shards_total) == (1, 2)
    assert (covered.records_searched, covered.records_total, covered.fraction) == (2, 4, 0.5)
    assert answer.index.version == "v0"
    assert sample("vitrail_fanout_failures_total", shard="1", reason="unreachable") == failures + 1


async def test_a_shard_comes_back() -> None:
    """A shard that failed is asked again with every batch, so it is back with the first that it answers."""
    first, second = two_shards()
    async with searching(first, second) as here:
        for replica in here.topology.replicas:
            replica.failure = "unreachable"
        assert missing(await here.search()) == {}


async def test_no_shard_at_all() -> None:
    """Where none can be reached the call is Unavailable, with a time to come again."""
    async with searching_without(0, FakeShard()) as here:
        with pytest.raises(Unavailable, match="unreachable") as caught:
            await here.search()
    assert caught.value.retry_after == 0.5


async def test_a_shard_that_is_another() -> None:
    """A process of another layout is not asked, since it holds other records than those that are missing."""
    first, second = two_shards()
    async with searching(first, second) as here:
        second.shards = 3
        await here.topology.probe_all()
        answer = await here.search()
    assert ids(answer) == [["a", "c"]]
    assert missing(answer) == {1: "no process has this place"}
    assert second.requests == []


async def test_an_unknown_collection_is_declared() -> None:
    """A shard that has not heard of the collection is missing, which is no error; its neighbours in the batch are."""
    first, second = two_shards()
    second.unknown = {2}
    async with searching(first, second) as here:
        answer = await here.search(NORTH, DEFAULT._replace(collection_uid=2))
        whole = await here.search()
    assert ids(answer) == [["a", "c"]]
    assert missing(answer) == {1: "unknown collection"}
    assert answer.coverage.fraction == 0.5
    assert answer.index.seq == 7
    assert missing(whole) == {}


async def test_a_shard_that_is_built_anew_is_declared() -> None:
    """It does not answer from the few records that it was sent yet, and counts with those that it held before."""
    first, second = two_shards()
    async with searching(first, second) as here:
        second.unknown, second.ready, second.seq, second.records = {1}, False, 0, {"b": [0.2, 0.8]}
        await here.topology.probe_all()
        answer = await here.search()
    assert ids(answer) == [["a", "c"]]
    covered = answer.coverage
    assert (covered.records_searched, covered.records_total, covered.fraction) == (2, 4, 0.5)


async def test_nobody_knows_the_collection_yet() -> None:
    """Right after it was made, an answer has no hits and covers nothing."""
    first, second = two_shards()
    first.unknown = second.unknown = {1}
    async with searching(first, second) as here:
        answer = await here.search(np.concatenate([NORTH, EAST]))
    assert ids(answer) == [[], []]
    assert answer.coverage.fraction == 0.0
    assert missing(answer) == {0: "unknown collection", 1: "unknown collection"}


async def test_no_answer_in_time() -> None:
    """Where no shard answers the call is DeadlineExceeded, when its time is over."""
    shard = FakeShard()
    async with searching(shard) as here:
        shard.stop()
        with pytest.raises(DeadlineExceeded):
            await here.search(deadline=Deadline.after(0.2))


async def test_a_stopped_shard_stops_nobody() -> None:
    """Callers get the others' hits by their deadline; the next batch goes long before; then it is left out."""
    first, second = two_shards()
    async with searching(first, second) as here:
        await here.warm_up()
        before = len(second.requests)
        second.stop()
        start = time.monotonic()
        answers = []
        for batch in (1, 2):
            answers.append(here.search(deadline=Deadline.after(1.5)))
            await asked(second, before + batch)
        assert not any(answer.done() for answer in answers)
        # Two batches are overdue. The third does not ask it, and need not wait.
        at_once = await here.search(deadline=Deadline.after(1.5))
        assert ids(at_once) == [["a", "c"]]
        assert missing(at_once) == {1: "overdue"}
        assert len(second.requests) == before + 2
        assert not any(answer.done() for answer in answers)
        for answer in answers:
            assert ids(await answer) == [["a", "c"]]
            assert missing(await answer) == {1: "no answer in time"}
            assert (await answer).coverage.fraction == 0.5
        assert time.monotonic() - start > 1.3
        # A probe brings it back.
        second.go_on()
        await here.topology.probe_all()
        assert missing(await here.search()) == {}


async def test_a_late_answer_still_counts() -> None:
    """A shard that answers an overdue batch before its callers leave is in their answer, and asked again."""
    first, second = two_shards()
    async with searching(first, second) as here:
        await here.warm_up()
        before = len(second.requests)
        second.stop()
        answers = []
        for batch in (1, 2):
            answers.append(here.search())
            await asked(second, before + batch)
        await eventually(lambda: here.topology.replicas[1].overdue == 2)
        second.go_on()
        for answer in answers:
            assert ids(await answer) == [["a", "b", "c"]]
        assert missing(await here.search()) == {}


async def test_who_is_late_but_answers_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only from whom nothing was heard for a while counts as stopped: a busy one is late, too."""
    replica = Topology(["127.0.0.1:1"]).replicas[0]
    replica.overdue = 2
    assert replica.is_silent
    monkeypatch.setattr(topology, "SILENT_SECONDS", 5.0)
    replica.heard_at = time.monotonic() - 4
    assert not replica.is_silent
    replica.heard_at = time.monotonic() - 6
    assert replica.is_silent


async def test_shards_that_are_all_overdue_are_asked_all_the_same() -> None:
    """When the whole machine stood still, nobody is refused for it."""
    shards = two_shards()
    async with searching(*shards) as here:
        await here.warm_up()
        before = len(shards[0].requests)
        for shard in shards:
            shard.stop()
        answers = []
        for batch in (1, 2):
            answers.append(here.search())
            await asked(shards[0], before + batch)
        await eventually(lambda: [replica.overdue for replica in here.topology.replicas] == [2, 2])
        answers.append(here.search())
        await asked(shards[0], before + 3)
        for shard in shards:
            shard.go_on()
        for answer in answers:
            assert missing(await answer) == {}


async def test_each_by_its_own_deadline() -> None:
    """In one batch, who has little time is answered with what there is; who has more gets everything."""
    first, second = two_shards()
    async with searching(first, second) as here:
        second.stop()
        before = here.search()
        await asked(second, 1)
        hasty, patient = here.search(deadline=Deadline.after(0.6)), here.search()
        await here.waits(2)
        second.go_on()
        await before
        second.stop()
        await asked(second, 2)
        answer = await hasty
        assert missing(answer) == {1: "no answer in time"}
        assert not patient.done()
        second.go_on()
        assert missing(await patient) == {}


async def test_an_answer_that_does_not_fit_its_question_is_none() -> None:
    """A shard that answers with another number of results is declared, and its neighbours' hits come."""
    first, second = two_shards()
    second.malformed = True
    async with searching(first, second) as here:
        answer = await here.search()
    assert ids(answer) == [["a", "c"]]
    assert missing(answer) == {1: "malformed answer"}


async def test_impatient_callers_do_not_make_shards_look_slow() -> None:
    """A batch that ended with its callers' deadlines says nothing of how long is too long."""
    first, second = two_shards()
    async with searching(first, second) as here:
        await here.search()
        await eventually(lambda: len(here.fanout._recent) == 2)  # a first guess, and that batch
        before = list(here.fanout._recent)
        second.stop()
        answers = await asyncio.gather(*(here.search(deadline=Deadline.after(0.04)) for _ in range(3)))
        assert all(missing(answer) == {1: "no answer in time"} for answer in answers)
        assert list(here.fanout._recent) == before
