"""Hostile, damaged and odd files, and good ones changed at random: refused or decoded right, in time and memory."""

from tests.server import corpus, mutations

MUTATIONS = 2_000


def test_every_kind_ends_as_it_must() -> None:
    """Bad files are refused within 100 ms and good ones come out right, all within the memory that is documented."""
    found = list(corpus.outcomes())
    assert {outcome.kind: outcome.wrong for outcome in found if outcome.wrong} == {}
    assert [outcome.kind for outcome in found] == list(corpus.corpus())
    assert len(found) >= 40


def test_mutations_do_no_harm() -> None:
    """Each gives an image or InvalidArgument, as fast as any image; a crash names its seed."""
    found = list(mutations.run(0, MUTATIONS))
    assert [result.seed for result in found] == list(range(MUTATIONS))
    slow = [result for result in found if result.cpu > corpus.CPU_SECONDS + result.pixels * 100e-9]
    assert slow == []
    assert min(sum(result.decoded for result in found), sum(not result.decoded for result in found)) > MUTATIONS // 10


def test_mutations_are_the_same_each_time() -> None:
    """A seed that failed can be looked at again."""
    assert mutations.mutated(7) == mutations.mutated(7)
    assert len({mutations.mutated(seed) for seed in range(50)}) == 50
