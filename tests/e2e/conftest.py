import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Running, eventually
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


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server that speaks S3, as its URL; the environment says where it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    names = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}
    for name, value in names.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "s3.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        eventually(lambda: _made(f"{address}/bucket"))
        yield "s3://bucket"
        server.terminate()


def _made(bucket: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(bucket, method="PUT")) as response:
            return bool(response.status == 200)
    except OSError:
        return False
