"""Processes that start before what they need, callers that are asked to connect anew, and an end in order."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.running import PATIENCE, eventually, scrape, wait_applied
from tests.e2e.searching import Searching
from tests.postgres import running_postgres
from tests.shard.rows import clustered
from vitrail.client import Client
from vitrail.rpc.process import child_environment
from vitrail.v1.record_pb2 import RecordInput, StreamRecordsRequest
from vitrail.v1.record_pb2_grpc import RecordServiceStub
from vitrail.v1.types_pb2 import Vector

DIMENSION = 8
AGE = 1.0
PASSWORD = "hidden-from-logs"
VITRAIL = [sys.executable, "-m", "vitrail.cli.main"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pod:
    """One process as Kubernetes runs it: told all by its environment, and asked by probes."""

    def __init__(self, log: Path, command: str, address: str, **environment: object) -> None:
        self.address = address
        self._log, self._command = log, command
        metrics_port = free_port()
        self.metrics = f"127.0.0.1:{metrics_port}"
        told = {"PORT": address.rpartition(":")[2], "METRICS_PORT": metrics_port, **environment}
        self._environment = {f"VITRAIL_{name}": str(value) for name, value in told.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*VITRAIL, self._command], stdout=log, stderr=log, env=child_environment() | self._environment
            )

    def send(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def ended(self) -> int:
        """Wait until it has ended; returns its code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def waits(self) -> set[str]:
        """What it says that it waits for."""
        with suppress(OSError):  # it does not serve metrics yet
            names = {name: value for name, value in scrape(self.metrics).items() if name.startswith("vitrail_waiting{")}
            return {name.split('"')[1] for name, value in names.items() if value}
        return set()

    def health(self) -> str:
        """The names of health that are well; "" where nobody answers."""
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                statuses = {
                    name: stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5.0).status
                    for name, service in (("live", "live"), ("started", "started"), ("serving", ""))
                }
            except grpc.RpcError:
                return ""
        return " ".join(name for name, status in statuses.items() if status == health_pb2.HealthCheckResponse.SERVING)

    def says(self, words: str) -> int:
        """In how many lines it has said so."""
        return sum(words in line for line in self._log.read_text().splitlines())


def test_a_life_in_order(tmp_path: Path) -> None:
    """Each waits for what is not there, says for what, goes on by itself; and ends so that nobody notices."""
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres())
        store = server.new_database().replace("@", f"{PASSWORD}@")  # the server asks for none
        server.stop()
        log, shards = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        shard = stack.enter_context(
            Pod(tmp_path / "shard.log", "shard", shards, INDEX=0, COUNT=1, DATA=tmp_path / "data", LOG=log)
        )
        told = {
            "STORE": store,
            "LOG_LEVEL": "debug",
            "MIGRATE": False,
            "CONNECTION_SECONDS": AGE,
            "SETTLE_SECONDS": 600,
        }
        coordinator = stack.enter_context(Pod(tmp_path / "coordinator.log", "server", log, SHARDS=shards, **told))

        shard.start()
        eventually(lambda: shard.waits() == {"log"})
        assert shard.health() == "live"
        coordinator.start()
        eventually(lambda: coordinator.waits() == {"store"})
        shard.send()
        assert shard.ended() == 0  # at once: nobody was told that it serves
        server.start()
        eventually(lambda: coordinator.waits() == {"migration"})
        subprocess.run([*VITRAIL, "migrate"], check=True, env=os.environ | {"VITRAIL_STORE": store})
        eventually(lambda: coordinator.waits() == {"shards"})
        assert coordinator.health() == "live started"
        shard.start()
        eventually(lambda: shard.health() == coordinator.health() == "live started serving")
        assert shard.waits() == coordinator.waits() == set()
        for what in ("store", "migration", "shards"):
            assert coordinator.says(f"waiting for the {what}") == 2  # that it does, and that it no longer does

        calls_while_connections_are_made_anew(coordinator)

        coordinator.send()
        eventually(lambda: coordinator.health() == "live started")
        with Client(coordinator.address, retries=0) as client:  # it is told of no end yet
            assert client.list_collections()[0].name == "c"
        coordinator.send()
        assert coordinator.ended() == 0
        assert coordinator.says(PASSWORD) == 0


def calls_while_connections_are_made_anew(coordinator: Pod) -> None:
    """No caller fails, none of them retries, and streams go on over many times the age of a connection."""
    vectors = clustered(200, DIMENSION)
    with Client(coordinator.address) as client:
        client.create_collection("c", dimension=DIMENSION)
        client.upsert("c", ids=[f"r{number}" for number in range(len(vectors))], vectors=vectors)
        wait_applied(client, "c")
    until = time.monotonic() + 4 * AGE

    def records() -> Iterator[StreamRecordsRequest]:
        number = 0
        while time.monotonic() < until:
            vector = Vector(values=vectors[number % len(vectors)].tolist())
            yield StreamRecordsRequest(collection="c", record=RecordInput(id=f"s{number}", vector=vector))
            number += 1
            time.sleep(0.005)

    with ExitStack() as stack:
        callers = [stack.enter_context(Searching(coordinator.address, "c", vectors, pause=0.001)) for _ in range(4)]
        channel = stack.enter_context(grpc.insecure_channel(coordinator.address))
        answers = list(RecordServiceStub(channel).StreamRecords(records()))
    assert len(answers) > 50
    assert not any(answer.HasField("error") for answer in answers)
    assert [seen.fault for caller in callers for seen in caller.seen if seen.fault] == []
    assert all(len(caller.seen) > 50 for caller in callers)
    started = scrape(coordinator.metrics)
    method = 'grpc_method="Follow",grpc_service="vitrail.v1.LogService",grpc_type="server_stream"'
    assert started[f"grpc_server_started_total{{{method}}}"] == 1  # it is followed by the stream that it began with
