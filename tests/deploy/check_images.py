"""Builds the images of the shard and the command, and starts them; `make images-check`. Needs root."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from numpy.typing import NDArray

from tests.deploy.stages import Image, build
from vitrail.client import Client, Record, VitrailError

TOOLS = ["gcc", "cc", "g++", "ld", "make", "pip", "pip3", "git", "curl", "uv"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    directory = tmp_path_factory.mktemp("images")
    built: dict[str, Image] = {}
    return {target: build(target, directory, built) for target in ("shard", "command")}


@pytest.mark.parametrize("target", ["shard", "command"])
def test_an_image_holds_what_it_needs_and_no_more(images: dict[str, Image], target: str) -> None:
    image = images[target]
    assert "Usage: vitrail shard" in _said(image, [*image.entrypoint, "shard", "--help"])
    assert _said(image, [*image.entrypoint, "--version"]).strip() == version("vitrail")
    script = (
        f"id --user; touch /x /opt/vitrail/x /etc/x; for tool in {' '.join(TOOLS)}; do command -v $tool; done; true"
    )
    assert _said(image, ["sh", "-c", f"({script}) 2>/dev/null"]).split() == ["10001"]
    packages = {path.name for path in image.root.glob("opt/vitrail/lib/python3*/site-packages/*")}
    assert {"vitrail", "s3fs"} <= packages
    assert ("faiss" in packages) == (target == "shard")
    assert not packages & {"torch", "torchvision", "sqlalchemy", "pip", "hatchling", "pytest", "tests"}
    for gone in ("src", "wheels", "locks", "opt/build", "root/.cache", "tmp/*", "x"):
        assert not list(image.root.glob(gone))


def test_a_shard_serves_from_its_image(images: dict[str, Image], tmp_path: Path) -> None:
    """Its root read-only, as the chart's user; and the command's image asks for it."""
    port, log, metrics = _ports(3)
    shard = images["shard"]
    settings = {"VITRAIL_INDEX": "0", "VITRAIL_COUNT": "1", "VITRAIL_LOG": f"127.0.0.1:{log}"}
    settings |= {"VITRAIL_PORT": str(port), "VITRAIL_METRICS_PORT": str(metrics)}
    server = [sys.executable, "-m", "vitrail.cli.main", "server", "--store", str(tmp_path / "store")]
    server += ["--shards", f"127.0.0.1:{port}", "--port", str(log), "--metrics-port", "0"]
    with (
        _running(server),
        _running(shard.inside([*shard.entrypoint, *shard.command], settings, read_only=True)),
        Client(f"127.0.0.1:{log}") as client,
    ):
        _until(lambda: client.create_collection("c", dimension=8, exist_ok=True))
        vectors = np.eye(8, dtype=np.float32)
        client.upsert("c", [Record(id=str(i), vector=vectors[i]) for i in range(8)])
        _until(lambda: _found(client, vectors[3]))
        _until(lambda: _healthy(port))
        said = _said(images["command"], ["vitrail", "stats", "c", "--json", "--address", f"127.0.0.1:{log}"])
        assert [part["records"] for part in json.loads(said)["partitions"]] == [8]


def _found(client: Client, vector: NDArray[np.float32]) -> None:
    hits = client.search("c", vector=vector, top_k=1).hits
    if [hit.id for hit in hits] != ["3"]:
        raise AssertionError(hits)


def _healthy(port: int) -> None:
    """As the probes of its pod ask."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name in ("live", "started", ""):
            said = HealthStub(channel).Check(HealthCheckRequest(service=name), timeout=10)
            if said.status != HealthCheckResponse.SERVING:
                raise AssertionError(name)


def _until(call: Callable[[], object]) -> None:
    """Call until it works, for a minute."""
    end = time.monotonic() + 60
    while True:
        try:
            call()
            return
        except (VitrailError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _said(image: Image, command: list[str]) -> str:
    done = subprocess.run(image.inside(command, read_only=True), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
