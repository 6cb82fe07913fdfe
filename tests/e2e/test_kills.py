"""Kill -9 of a shard at each thing that it does; `python -m tests.bench.kills` does it often, and makes a table."""

from collections.abc import Iterator

import pytest

from tests.e2e.killing import PHASES, Phase, kill
from tests.e2e.running import Running
from vitrail.client import Client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("kills") / "data"
    running = Running(data, "--shards", "2", "--port", "0", "--metrics-port", "0")
    yield running
    running.stop()


@pytest.mark.parametrize("phase", PHASES)
def test_what_was_published_comes_back_and_catches_up(running: Running, phase: Phase) -> None:
    """Nothing is missing or double afterwards, and searches meanwhile say what they cover instead of failing."""
    with Client(running.address) as client:
        outcome = kill(running, client, phase)
    assert outcome.opened == outcome.published
    assert (outcome.missing, outcome.double) == (0, 0)
    assert outcome.searches > 10
    assert outcome.failed == []
    assert outcome.coverage < 1 or "child" in phase
