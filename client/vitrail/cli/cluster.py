"""The processes of a cluster on one machine: started, watched, started again when they die, ended with this one.

Ports are reserved first: this process binds each one and keeps it, without listening, and the children share it
(SO_REUSEPORT). So they know each other's addresses before they start, nobody takes a port in between, and a child
that is started again finds its own. The coordinator reads the addresses of shards from a file, since another number of
shards may be wanted at any time: their processes are then started beside the others, which end once the new ones serve.
"""

import asyncio
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vitrail.cli.child import Child
from vitrail.rpc.address import host_port
from vitrail.rpc.server import wait_for_signal
from vitrail.v1.cluster_pb2 import GetShardsRequest, GetShardsResponse, SetShardsRequest
from vitrail.v1.cluster_pb2_grpc import ClusterServiceStub

START_SECONDS = 300.0
TEND_SECONDS = 0.5
CALL_SECONDS = 10.0
DEFAULT_SHARDS, MAX_SHARDS = 2, 64


class StartFailed(Exception):
    """A process ended before the cluster was ready."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The processes of all shards, where there are so many of them."""

    count: int
    processes: list[Child]
    ports: list[socket.socket]
    """What binds them lives as long as the processes may."""

    async def stop(self) -> None:
        for child in self.processes:
            child.let_end()
        await asyncio.gather(*(child.stop() for child in self.processes))
        for held in self.ports:
            held.close()


class Cluster:
    """A coordinator and its shards on this machine."""

    def __init__(
        self,
        *,
        data: Path,
        host: str,
        port: int,
        metrics_port: int,
        shards: int | None,
        replicas: int = 1,
        store: str | None = None,
        snapshots: str = "",
    ) -> None:
        """Reserve the ports; without `shards` there are as many as before, without a `store` it is among the data.

        Raises:
            OSError: A port is taken.
        """
        self._directory = data / "shards"
        self._logs = data / "logs"
        self._store = store or str(data / "store")
        self._snapshots = snapshots
        self._host = host
        self._replicas = replicas
        before = _layout_in(self._directory)
        self._count = shards or before or DEFAULT_SHARDS
        """How many shards are wanted at the start."""
        self._port = _reserve(host, port)
        self._coordinator = self._coordinator_child(metrics_port)
        self._layouts = [self._layout(before, replicas=1)] if before not in (0, self._count) else []
        """The one that is to serve is the last."""
        self._layouts.append(self._layout(self._count, replicas, metrics_port and metrics_port + 1))

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
                tending = asyncio.create_task(self._tend())
                await asyncio.wait([stopped, tending], return_when=asyncio.FIRST_COMPLETED)
                tending.cancel()
                if not stopped.done():
                    tending.result()  # it ends by itself where it has failed
        finally:
            ready.cancel()
            await self._stop()

    @property
    def _children(self) -> list[Child]:
        return [self._coordinator, *(child for layout in self._layouts for child in layout.processes)]

    async def _start(self) -> None:
        """Start what serves first, and wait for it: the shards of before, where their number has changed."""
        self._tell_addresses()
        first = [self._coordinator, *self._layouts[0].processes]
        for child in first:
            await child.start()
        waits = {asyncio.create_task(_serving(child.address)) for child in first}
        exits = {asyncio.create_task(child.wait()) for child in first}
        try:
            async with asyncio.timeout(START_SECONDS):
                while any(not wait.done() for wait in waits) and not any(exit_.done() for exit_ in exits):
                    unfinished = {wait for wait in waits if not wait.done()}
                    await asyncio.wait(unfinished | exits, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            said = self._coordinator.last_lines()
            raise StartFailed(f"not ready after {START_SECONDS:.0f} seconds: {said}") from error
        finally:
            for task in waits | exits:
                task.cancel()
        for child in first:
            if child.exited:
                raise StartFailed(f"{child.name} ended: {child.last_lines()}")
        for child in first:
            child.keep_alive()

    async def _tend(self) -> None:
        """Have as many shards serve as are wanted, which is first what this was started with, then what is set."""
        async with grpc.aio.insecure_channel(self._coordinator.address) as channel:
            cluster = ClusterServiceStub(channel)
            is_told = False
            while True:
                try:
                    if not is_told:
                        await cluster.SetShards(SetShardsRequest(shards=self._count), timeout=CALL_SECONDS)
                        is_told = True
                    await self._arrange(await cluster.GetShards(GetShardsRequest(), timeout=CALL_SECONDS))
                except grpc.aio.AioRpcError:
                    pass  # the store may be away; asked again
                except OSError as error:
                    print(f"cannot change the number of shards: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(TEND_SECONDS)

    async def _arrange(self, places: GetShardsResponse) -> None:
        """Start the layout that is wanted where it does not run; once it serves, end the others."""
        if not 1 <= places.wanted <= MAX_SHARDS:
            return
        self._layouts.sort(key=lambda layout: layout.count == places.wanted)
        if self._layouts[-1].count != places.wanted:
            self._layouts.append(self._layout(places.wanted, self._replicas))
            self._tell_addresses()
        if waiting := [child for child in self._layouts[-1].processes if not child.is_started]:
            # One after another: they share the machine with those that serve.
            ready = {process.address for process in places.processes if not process.failure}
            if all(child.address in ready for child in self._layouts[-1].processes if child.is_started):
                await waiting[0].start()
                waiting[0].keep_alive()
        elif places.serving == places.wanted and len(self._layouts) > 1:
            others, self._layouts = self._layouts[:-1], self._layouts[-1:]
            for layout in others:
                await layout.stop()
                for directory in _directories(self._directory, layout.count):
                    shutil.rmtree(directory)
            self._tell_addresses()
            print(f"{places.serving} shards serve now", file=sys.stderr, flush=True)

    async def _stop(self) -> None:
        """The coordinator first, so that no query meets a shard that is gone; the shards then publish."""
        for child in self._children:
            child.let_end()
        await self._coordinator.stop()
        await asyncio.gather(*(layout.stop() for layout in self._layouts))
        self._port.close()

    def _tell_addresses(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        addresses = [child.address for layout in self._layouts for child in layout.processes]
        beside = self._addresses.with_name("addresses.new")
        beside.write_text("\n".join(addresses))
        beside.replace(self._addresses)

    @property
    def _addresses(self) -> Path:
        return self._directory / "addresses"

    def _layout(self, count: int, replicas: int, metrics_port: int = 0) -> Layout:
        ports = [_reserve(self._host, 0) for _ in range(count * replicas)]
        processes = [
            self._shard_child(*divmod(number, count), count, held, metrics_port and metrics_port + number)
            for number, held in enumerate(ports)
        ]
        return Layout(count, processes, ports)

    def _coordinator_child(self, metrics_port: int) -> Child:
        options = {"shards": f"file:{self._addresses}"}
        # In the environment: a password among the arguments would be there for everyone to see.
        return self._child("coordinator", "server", self._port, metrics_port, options, {"VITRAIL_STORE": self._store})

    def _shard_child(self, replica: int, index: int, count: int, port: socket.socket, metrics_port: int) -> Child:
        name = f"{index}-of-{count}{f'-replica-{replica}' if replica else ''}"
        options = {"index": index, "count": count, "log": self._coordinator.address, "data": self._directory / name}
        environment = {"VITRAIL_SNAPSHOTS": self._snapshots}
        return self._child(f"shard-{name}", "shard", port, metrics_port, options, environment)

    def _child(
        self,
        name: str,
        command: str,
        port: socket.socket,
        metrics_port: int,
        options: dict[str, object],
        environment: Mapping[str, str],
    ) -> Child:
        number = port.getsockname()[1]
        options |= {"host": self._host, "port": number, "metrics-port": metrics_port}
        arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        program = [sys.executable, "-m", "vitrail.cli.main", command, *arguments, "--reuse-port"]
        return Child(name, host_port(self._host, number), program, self._logs / f"{name}.log", environment)


def _directories(directory: Path, count: int) -> list[Path]:
    """Where the processes of a layout keep their partitions."""
    return [*directory.glob(f"*-of-{count}"), *directory.glob(f"*-of-{count}-replica-*")]


def _layout_in(directory: Path) -> int:
    """How many shards served here last, or 0."""
    found: dict[int, set[int]] = {}
    for manifest in directory.glob("*-of-*/*/manifest.json"):
        index, _, shards = manifest.parent.parent.name.partition("-of-")
        if index.isdigit() and shards.isdigit():
            found.setdefault(int(shards), set()).add(int(index))
    return max((shards for shards, there in found.items() if len(there) == shards), default=0)


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
