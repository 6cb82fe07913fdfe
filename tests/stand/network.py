"""Who is where: addresses of pods, names of Services in a file of hosts, ClusterIPs as forwarders."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitrail.rpc.process import child_environment

HOSTS_BYTES = 1 << 14
CLAIM_PORT = 50050


class Network:
    """A 127.N.0.0/16 that no other stand of this machine has. What is told to it is seen some seconds later.

    Args:
        directory: For its files.
        delay: Until an endpoint that comes or goes is seen, in seconds, by ClusterIPs and by names.
        cached: So much longer it takes by names, whose answers are kept.
    """

    def __init__(self, directory: Path, *, delay: float, cached: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._delay, self._cached = delay, cached
        self._claim, self._prefix = _claimed()
        self._given = 0
        self._proxies: list[asyncio.subprocess.Process] = []
        self._addresses: dict[str, str] = {}
        self._named: Mapping[str, Sequence[str]] = {}
        self._told: Mapping[str, Sequence[str]] | None = None
        self._served: Mapping[str, Sequence[str]] | None = None
        self.hosts = directory / "hosts"
        self.hosts.touch()
        self.hosts.with_name("nsswitch.conf").write_text("hosts: files\n")  # another name is unknown at once

    def close(self) -> None:
        self._claim.close()

    def new_address(self) -> str:
        """Of a pod; none is given twice."""
        self._given += 1
        return f"{self._prefix}.{1 + self._given // 250}.{1 + self._given % 250}"

    def cluster_address(self, service: str) -> str:
        """Of a Service, or of what else is there only once."""
        return self._addresses.setdefault(service, f"{self._prefix}.0.{1 + len(self._addresses)}")

    async def forward(self, service: str, port: int, endpoints: Sequence[str] = ()) -> None:
        """Take connections for a Service at its address; for these endpoints, or for those that are told later."""
        address = f"{self.cluster_address(service)}:{port}"
        self._write_hosts(self._named)
        file = self._endpoints(f"{service}:{port}")
        file.write_text("\n".join(endpoints))
        words = ["-m", "tests.stand.proxy", address, str(file)]
        self._proxies.append(await asyncio.create_subprocess_exec(sys.executable, *words, env=child_environment()))

    async def stop(self) -> None:
        for proxy in self._proxies:
            proxy.kill()
            await proxy.wait()

    def tell(self, names: Mapping[str, Sequence[str]], served: Mapping[str, Sequence[str]]) -> None:
        """What there is now.

        Args:
            names: Addresses by name.
            served: HOST:PORT of who takes connections, by SERVICE:PORT.
        """
        loop = asyncio.get_running_loop()
        if names != self._told:
            loop.call_later(self._delay + self._cached, self._write_hosts, names)
        if served != self._served:
            loop.call_later(self._delay, self._write_endpoints, served)
        self._told, self._served = names, served

    def _write_hosts(self, names: Mapping[str, Sequence[str]]) -> None:
        """In place, since pods hold the file itself; always as long, so that nobody reads a part."""
        self._named = names
        fixed: Mapping[str, Sequence[str]] = {name: [address] for name, address in self._addresses.items()}
        lines = [f"{address} {name}" for name, found in {**fixed, **names}.items() for address in found]
        text = "\n".join(["127.0.0.1 localhost", *lines]).encode().ljust(HOSTS_BYTES, b"\n")
        descriptor = os.open(self.hosts, os.O_WRONLY)
        try:
            os.pwrite(descriptor, text, 0)
        finally:
            os.close(descriptor)

    def _write_endpoints(self, served: Mapping[str, Sequence[str]]) -> None:
        for name, endpoints in served.items():
            new = self._directory / "endpoints.new"
            new.write_text("\n".join(endpoints))
            new.rename(self._endpoints(name))

    def _endpoints(self, name: str) -> Path:
        return self._directory / f"endpoints-{name}"


def _claimed() -> tuple[socket.socket, str]:
    """The first network that nobody has, and what holds it."""
    for number in range(1, 255):
        claim = socket.socket()
        try:
            claim.bind((f"127.{number}.0.0", CLAIM_PORT))
        except OSError:
            claim.close()
            continue
        return claim, f"127.{number}"
    raise OSError("every network 127.N is taken by another stand")
