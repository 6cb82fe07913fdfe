import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Running
from vitrail.client import Client


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A cluster of two shards that all tests share which break nothing."""
    running = Running(
        tmp_path_factory.mktemp("cluster") / "data", "--shards", "2", "--port", "0", "--metrics-port", "0"
    )
    yield running
    running.stop()


@pytest.fixture
def client(cluster: Running) -> Iterator[Client]:
    with Client(cluster.address) as client:
        yield client


@pytest.fixture
def name() -> str:
    """The name of a collection that no other test uses."""
    return f"c-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts clusters of the test's own, which are stopped with it."""
    started: list[Running] = []

    def start(*options: str, data: Path = tmp_path / "data") -> Running:
        running = Running(data, "--port", "0", "--metrics-port", "0", *options)
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
