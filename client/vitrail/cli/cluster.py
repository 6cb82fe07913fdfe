"""The processes of a cluster on one machine: started, watched, started again when they die, ended with this one.

Ports are reserved first: this process binds each one and keeps it, without listening, and the children share it
(SO_REUSEPORT). So they know each other's addresses before they start, nobody takes a port in between, and a child
that is started again finds its own.
"""

import asyncio
import contextlib
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vitrail.rpc.process import child_environment
from vitrail.rpc.server import wait_for_signal
from vitrail.v1.cluster_pb2 import GetShardsRequest, GetShardsResponse, SetShardsRequest
from vitrail.v1.cluster_pb2_grpc import ClusterServiceStub

START_SECONDS = 300.0
STOP_SECONDS = 20.0
RESTART_SECONDS = 1.0
HAND_OVER_SECONDS = 0.5
CALL_SECONDS = 10.0
LAST_LINES = 20


class StartFailed(Exception):
    """A process ended before the cluster was ready."""


class Cluster:
    """A coordinator and its shards on this machine."""

    def __init__(
        self,
        *,
        data: Path,
        host: str,
        port: int,
        metrics_port: int,
        shards: int,
        replicas: int = 1,
        store: str | None = None,
    ) -> None:
        """Reserve the ports; without a `store` it is SQLite among the data.

        Raises:
            OSError: One is taken.
        """
        self._data = data
        self._store = store or str(data / "store")
        self._host = host
        self._count = shards
        self._before = _other_layout(data / "shards", shards)
        processes = shards * replicas
        # What binds the ports must live as long as the cluster.
        self._reserved = [_reserve(host, wanted) for wanted in (port, *[0] * (processes + self._before))]
        self._addresses = [f"{host}:{held.getsockname()[1]}" for held in self._reserved]
        self._coordinator = self._coordinator_child(metrics_port)
        self._shards = [
            self._shard_child(
                process, shards, self._addresses[1 + process], metrics_port and metrics_port + 1 + process
            )
            for process in range(processes)
        ]
        self._old_shards = [
            self._shard_child(index, self._before, self._addresses[1 + processes + index], 0)
            for index in range(self._before)
        ]

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Run until a signal comes, then stop every process.

        Raises:
            StartFailed: A process ended before all of them were ready.
        """
        stopped = asyncio.create_task(wait_for_signal())
        ready = asyncio.create_task(self._start())
        try:
            await asyncio.wait([stopped, ready], return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                ready.result()
                on_ready(self._coordinator.address)
                handing_over = asyncio.create_task(self._hand_over())
                await stopped
                handing_over.cancel()
        finally:
            ready.cancel()
            await self._stop()

    @property
    def _children(self) -> list["Child"]:
        return [self._coordinator, *self._shards, *self._old_shards]

    async def _start(self) -> None:
        """Start everything, and wait for what serves first: the shards of before, where their number has changed."""
        for child in self._children:
            await child.start()
        first = [self._coordinator, *(self._old_shards or self._shards)]
        waits = {asyncio.create_task(_serving(child.address)) for child in first}
        exits = {asyncio.create_task(child.wait()) for child in self._children}
        try:
            async with asyncio.timeout(START_SECONDS):
                while any(not wait.done() for wait in waits) and not any(exit_.done() for exit_ in exits):
                    unfinished = {wait for wait in waits if not wait.done()}
                    await asyncio.wait(unfinished | exits, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise StartFailed(f"not ready after {START_SECONDS:.0f} seconds") from error
        finally:
            for task in waits | exits:
                task.cancel()
        for child in self._children:
            if child.exited:
                raise StartFailed(f"{child.name} ended: {child.last_lines()}")
        for child in self._children:
            child.keep_alive()

    async def _hand_over(self) -> None:
        """Have this number of shards serve; once they do, end those of before and delete what they held."""
        async with grpc.aio.insecure_channel(self._coordinator.address) as channel:
            cluster = ClusterServiceStub(channel)
            places = GetShardsResponse()
            while (places.wanted, places.serving) != (self._count, self._count):
                with contextlib.suppress(grpc.aio.AioRpcError):  # the store may be away; asked again
                    if places.wanted != self._count:
                        await cluster.SetShards(SetShardsRequest(shards=self._count), timeout=CALL_SECONDS)
                    places = await cluster.GetShards(GetShardsRequest(), timeout=CALL_SECONDS)
                await asyncio.sleep(HAND_OVER_SECONDS)
        if not self._old_shards:
            return
        for child in self._old_shards:
            child.let_end()
        await asyncio.gather(*(child.stop() for child in self._old_shards))
        for directory in (self._data / "shards").glob(f"*-of-{self._before}*"):
            shutil.rmtree(directory)
        print(f"{self._count} shards serve now, where {self._before} did", file=sys.stderr, flush=True)

    async def _stop(self) -> None:
        """The coordinator first, so that no query meets a shard that is gone; the shards then publish."""
        for child in self._children:
            child.let_end()
        await self._coordinator.stop()
        await asyncio.gather(*(child.stop() for child in [*self._shards, *self._old_shards]))
        for held in self._reserved:
            held.close()

    def _coordinator_child(self, metrics_port: int) -> "Child":
        options = {"shards": ",".join(self._addresses[1:])}
        # The store in the environment: a password among the arguments would be there for everyone to see.
        environment = {"VITRAIL_STORE": self._store}
        return self._child("coordinator", "server", self._addresses[0], metrics_port, options, environment)

    def _shard_child(self, process: int, count: int, address: str, metrics_port: int) -> "Child":
        replica, index = divmod(process, count)
        name = f"{index}-of-{count}{f'-replica-{replica}' if replica else ''}"
        options = {"index": index, "count": count, "log": self._addresses[0], "data": self._data / "shards" / name}
        return self._child(f"shard-{name}", "shard", address, metrics_port, options)

    def _child(
        self,
        name: str,
        command: str,
        address: str,
        metrics_port: int,
        options: dict[str, object],
        environment: Mapping[str, str] | None = None,
    ) -> "Child":
        host, _, port = address.rpartition(":")
        options |= {"host": host, "port": port, "metrics-port": metrics_port}
        arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        program = [sys.executable, "-m", "vitrail.cli.main", command, *arguments, "--reuse-port"]
        return Child(name, address, program, self._data / "logs" / f"{name}.log", environment or {})


class Child:
    """One process, with its log."""

    def __init__(
        self, name: str, address: str, program: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.address = address
        self._program = program
        self._environment = environment
        self._log = log
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def exited(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def last_lines(self) -> str:
        return " | ".join(self._last) or "it said nothing"

    async def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=child_environment() | self._environment,
        )
        self._copying = asyncio.create_task(self._copy_log(self._process))

    async def wait(self) -> None:
        """Wait until it has ended and its log is written."""
        if self._process is not None and self._copying is not None:
            await self._process.wait()
            await self._copying

    def keep_alive(self) -> None:
        """From now on, start it again whenever it ends."""
        self._keeping = asyncio.create_task(self._keep_alive())

    def let_end(self) -> None:
        """From now on, do not start it again."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def stop(self) -> None:
        """Ask it to end, and make it end when it takes too long."""
        if self._process is None or self.exited:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()

    async def _keep_alive(self) -> None:
        while True:
            await self.wait()
            code = self._process.returncode if self._process else None
            print(f"{self.name} ended with {code}; starting it again", file=sys.stderr, flush=True)
            await asyncio.sleep(RESTART_SECONDS)
            await self.start()

    async def _copy_log(self, process: asyncio.subprocess.Process) -> None:
        """Copy its standard error to the log file and to ours."""
        if process.stderr is None:
            return
        with self._log.open("ab") as file:
            while line := await process.stderr.readline():
                file.write(line)
                file.flush()
                self._last.append(line.decode(errors="replace").strip())
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()


def _other_layout(directory: Path, count: int) -> int:
    """How many shards served here last, where that was another number, or 0."""
    found: dict[int, set[int]] = {}
    for manifest in directory.glob("*-of-*/*/manifest.json"):
        index, _, shards = manifest.parent.parent.name.partition("-of-")
        if index.isdigit() and shards.isdigit():
            found.setdefault(int(shards), set()).add(int(index))
    return max((shards for shards, there in found.items() if len(there) == shards != count), default=0)


async def _serving(address: str) -> None:
    """Wait until a server says that it serves."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.monotonic()
            try:
                response = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass  # not there yet; asked again below
            await asyncio.sleep(max(0.0, 0.05 - (time.monotonic() - began)))


def _reserve(host: str, port: int) -> socket.socket:
    """Hold a port that only those who ask to share it can listen on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        with socket.socket(family) as probe:  # without SO_REUSEPORT: fails where anyone has the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise OSError(f"port {port} on {host} is taken: {error.strerror}") from error
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held
