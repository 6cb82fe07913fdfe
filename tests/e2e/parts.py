"""A cluster whose processes are started, killed and started again one by one, where `vitrail up` does it by itself."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.e2e.running import PATIENCE, eventually
from vitrail.client import Client, VitrailError
from vitrail.rpc.process import child_environment


class Place(NamedTuple):
    """Which shard a process is, of how many, and which replica of it."""

    shard: int
    of: int
    replica: int = 0


class Process:
    """One process, and its port, which nobody else takes while it is not running."""

    def __init__(self, log: Path) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))  # without listening
        self.port = self._held.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *words: object) -> None:
        """Start `vitrail` with these words. From the main thread: the child ends with the thread that started it."""
        command = [sys.executable, "-m", "vitrail.cli.main", *map(str, words)]
        options = ["--port", str(self.port), "--metrics-port", "0", "--reuse-port"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=child_environment())

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was not started"
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it is gone."""
        self.send(number)
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.end()
        self._held.close()


class Parts:
    """Coordinators and shards on one store. Nothing runs until it is started.

    Args:
        directory: For partitions and logs.
        store: A directory or a URL.
        layouts: Of how many shards there may be, each.
        replicas: Of each shard.
        coordinators: How many there may be; shards follow one or another of them.
    """

    def __init__(
        self, directory: Path, store: str, layouts: Sequence[int], *, replicas: int = 1, coordinators: int = 1
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._store = store
        self.coordinators = [Process(directory / f"coordinator-{number}.log") for number in range(coordinators)]
        places = [Place(shard, of, copy) for of in layouts for copy in range(replicas) for shard in range(of)]
        self.shards = {place: Process(directory / f"shard-{'-'.join(map(str, place))}.log") for place in places}

    @property
    def address(self) -> str:
        """Of the first coordinator."""
        return self.coordinators[0].address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self.coordinators, *self.shards.values()):
            process.close()

    def start_coordinator(self, number: int = 0) -> None:
        """Start one, and return when it answers."""
        process = self.coordinators[number]
        addresses = ",".join(shard.address for shard in self.shards.values())
        process.start("server", "--store", self._store, "--shards", addresses)
        with Client(process.address, retries=0, timeout=1) as client:
            eventually(lambda: _answers(client))

    def start_shard(self, place: Place) -> None:
        """Start one; it follows the log of a coordinator."""
        log = self.coordinators[(place.shard + place.replica) % len(self.coordinators)].address
        data = self._directory / "-".join(map(str, place))
        self.shards[place].start("shard", "--index", place.shard, "--count", place.of, "--log", log, "--data", data)

    def start_layout(self, count: int) -> None:
        """Start all shards of a layout."""
        for place in self.shards:
            if place.of == count:
                self.start_shard(place)

    def end_layout(self, count: int) -> None:
        """End all shards of a layout, as one who administers them does."""
        for place, process in self.shards.items():
            if place.of == count:
                process.end(signal.SIGTERM)


def wait_serving(client: Client, count: int, patience: float = PATIENCE) -> None:
    """Wait until a layout serves, with every process of it ready."""

    def serves() -> bool:
        shards = client.shards()
        ready = [each for each in shards.processes if each.shards == count and not each.failure]
        return shards.serving == count and {each.shard for each in ready} == set(range(count))

    eventually(serves, patience)


def _answers(client: Client) -> bool:
    try:
        client.list_collections()
    except VitrailError:
        return False
    return True
