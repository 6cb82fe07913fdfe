"""Replicas: which one is asked, and what happens where it is slow, dead, or not ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.server.fakes import FakeShard, eventually, reported, running, sample, serving
from tests.server.test_fanout import Searching
from vitrail.rpc.deadline import Deadline
from vitrail.server import topology
from vitrail.server.fanout import Answer
from vitrail.server.hedging import BURST, SHARE, Budget, Question
from vitrail.v1.shard_pb2 import SearchBatchRequest


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has two batches overdue counts as silent at once, so that no test waits for it."""
    monkeypatch.setattr(topology, "SILENT_SECONDS", 0.0)


@contextlib.asynccontextmanager
async def searching(*shards: FakeShard) -> AsyncIterator[Searching]:
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


def replica(index: int = 0, shards: int = 1) -> FakeShard:
    return FakeShard(index=index, shards=shards, records={f"r{index}": [0.0, 1.0]}, seq=3)


def is_whole(answer: Answer) -> bool:
    return answer.coverage.fraction == 1.0 and not answer.coverage.unreachable


async def test_replicas_are_one_shard() -> None:
    """Their records count once, and each of them is asked now and then."""
    shards = [replica(0, 2), replica(0, 2), replica(1, 2)]
    async with searching(*shards) as here:
        answers = [await here.search() for _ in range(40)]
    assert all(shard.requests for shard in shards)
    for answer in answers:
        assert is_whole(answer)
        assert (answer.coverage.shards_total, answer.coverage.records_total) == (2, 2)
        assert [id for _, id, _ in answer.hits[0]] == ["r0", "r1"]


async def test_a_replica_that_died_is_replaced_within_the_call() -> None:
    """The other one is asked, and no caller sees anything but a whole answer."""
    alive, dead = replica(), replica()
    async with serving(alive):
        async with serving(dead):
            here = Searching([dead, alive])
            await here.topology.probe_all()
        failovers = sample("vitrail_failovers_total")
        async with running(here.fanout.batcher):
            answers = [await here.search() for _ in range(50)]  # which of the two is asked first is chance
        await here.topology.close()
    assert all(map(is_whole, answers))
    assert sample("vitrail_failovers_total") > failovers
    assert len(alive.requests) == len(answers)


async def test_a_replica_that_is_forgotten_while_it_is_asked_is_replaced_within_the_call() -> None:
    """As one is whose pod is gone: its channel is closed between the choice and the call."""
    async with searching(replica(), replica()) as here:
        forgotten, _ = here.topology.replicas
        await forgotten.channel.close()
        answers = [await here.search() for _ in range(5)]
    assert all(map(is_whole, answers))


async def test_a_replica_that_stopped_is_hedged_and_then_left_out() -> None:
    """Its callers are answered by the other one soon; it is not asked again until a probe answers."""
    shards = [replica(), replica()]
    async with searching(*shards) as here:
        await here.warm_up()
        await here.topology.probe_all()
        hedges = sample("vitrail_hedges_total")
        shards[0].stop()
        before = [len(shard.requests) for shard in shards]
        answers = [await here.search(deadline=Deadline.after(2)) for _ in range(20)]
        assert all(map(is_whole, answers))
        assert max(answer.timings.fanout for answer in answers) < 1
        asked = len(shards[0].requests) - before[0]
        assert 2 <= asked <= 6  # twice, and where the other one took long by chance
        assert len(shards[1].requests) - before[1] == 20
        assert 2 <= sample("vitrail_hedges_total") - hedges <= 6
        shards[0].go_on()
        await here.topology.probe_all()
        for _ in range(20):
            await here.search()
        assert len(shards[0].requests) - before[0] > asked


async def test_where_the_budget_is_spent_an_overdue_question_goes_to_another_replica() -> None:
    """Nobody waits until the deadline for one that stands still."""
    shards = [replica(), replica()]
    budget = Budget()
    while budget.take():
        pass
    async with searching(*shards) as here:
        (shard,) = here.topology.shards
        stopped, other = (next(r for r in shard.replicas if r.address == each.address) for each in shards)
        shards[0].stop()
        question = Question(shard, stopped, SearchBatchRequest(), 30, budget)
        answer = asyncio.create_task(question.answer())
        await eventually(lambda: len(shards[0].requests) == 1)
        assert not shards[1].requests
        question.leave_behind()
        await asyncio.wait_for(answer, 10)
        assert (question.replica, stopped.overdue) == (other, 2)


async def test_the_time_of_each_process_is_counted() -> None:
    """Of one that was left until then, or the slowest would look fast; nothing of one that failed."""
    slow, fast, dead = replica(), replica(), replica()
    async with serving(slow, fast):
        async with serving(dead):
            here = Searching([slow, fast, dead])
            await here.topology.probe_all()
        (shard,) = here.topology.shards
        by_address = {each.address: each for each in shard.replicas}
        slow.stop()
        question = Question(shard, by_address[slow.address], SearchBatchRequest(), 30, Budget())
        answer = asyncio.create_task(question.answer())
        await eventually(lambda: slow.requests)
        await asyncio.sleep(0.05)
        question.leave_behind()
        await answer
        await Question(shard, by_address[dead.address], SearchBatchRequest(), 30, Budget()).answer()
        assert times(slow, "count") == 1
        assert 0.05 <= times(slow, "sum") < 5
        assert times(fast, "count") == 2
        assert times(dead, "count") == 0
        slow.go_on()
        slow.index, slow.shards = 1, 2
        await here.topology.probe(by_address[slow.address])
        here.topology.use([slow.address])
        told = {each["address"] for each in reported("vitrail_replica_seconds")}
        assert told & {slow.address, fast.address, dead.address} == {slow.address}
        assert times(slow, "count") == 0
        await here.topology.close()


def times(shard: FakeShard, what: str) -> float:
    labels = {"layout": str(shard.shards), "shard": str(shard.index), "address": shard.address}
    return sample(f"vitrail_replica_seconds_{what}", **labels)


async def test_one_that_still_catches_up_is_not_asked() -> None:
    """Not while there is another one that holds all it should."""
    young, old = replica(), replica()
    young.ready = False
    async with searching(young, old) as here:
        assert is_whole(await here.search())
        assert len(young.requests) < len(old.requests) / 4
        old.stop()
        for each in here.topology.replicas:
            each.overdue = 2 * (each.address == old.address)
        assert is_whole(await here.search())  # better than nothing
        assert len(young.requests) == 1


async def test_while_all_catch_up_they_are_searched() -> None:
    """At a cold start there is nothing better, and shards that were heard are a layout."""
    shards = [FakeShard(index, 2, ready=False, records={f"r{index}": [0.0, 1.0]}) for index in range(2)]
    async with searching(*shards) as here:
        answer = await here.search()
    assert (answer.coverage.shards_total, len(answer.hits[0])) == (2, 2)


async def test_the_layout_with_more_of_its_shards_serves() -> None:
    """Another number of shards takes over when it has all of its own, and not before; then back where that is lost."""
    one, *three = [replica(), *(replica(index, 3) for index in range(3))]
    three[2].ready = False
    async with searching(one, *three) as here:
        assert (await here.search()).coverage.shards_total == 1
        one.ready, three[2].ready = False, True
        await here.topology.probe_all()
        answer = await here.search()
        assert (answer.coverage.shards_total, answer.coverage.fraction) == (3, 1.0)
        one.ready = True
        await here.topology.probe_all()
        assert (await here.search()).coverage.shards_total == 3
        three[0].ready = False
        await here.topology.probe_all()
        assert (await here.search()).coverage.shards_total == 1


async def test_a_layout_that_is_not_trained_does_not_take_over() -> None:
    """It would compare each of its records; what has none to train on, or nothing better beside it, serves."""
    one, *two = replica(), replica(0, 2), replica(1, 2)
    two[1].train_at = 1
    one.ready = False
    async with searching(one, *two) as here:
        assert (await here.search()).coverage.shards_total == 2
        one.ready = True
        await here.topology.probe_all()
        assert (await here.search()).coverage.shards_total == 1
        two[1].trained = True
        one.train_at = 1
        await here.topology.probe_all()
        assert (await here.search()).coverage.shards_total == 2


async def test_a_replica_that_is_not_trained_is_not_picked_beside_one_that_is() -> None:
    """It would be slow; it is the second choice, where the other one seems to be."""
    young, old = replica(), replica()
    young.train_at = 1
    async with searching(young, old) as here:
        assert is_whole(await here.search())
        [shard] = here.topology.shards
        picked = {found for _ in range(20) if (found := shard.pick())}
        assert {found.address for found in picked} == {old.address}
        second = shard.pick(but=picked)
        assert second
        assert second.address == young.address


def test_the_budget_of_extra_questions() -> None:
    """A few at once, then their share of all; an answer is late after the 95th percentile."""
    budget = Budget()
    assert [budget.take() for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
    for _ in range(1000):
        budget.asked()
    assert sum(budget.take() for _ in range(1000)) <= BURST
    taken = 0
    for _ in range(1000):
        budget.asked()
        taken += budget.take()
    assert taken <= 1000 * SHARE + 1
    for millisecond in range(200):
        budget.answered(millisecond / 1000)
    assert 0.18 <= budget.after <= 0.2
