"""A real cluster for tests: `vitrail up` in a directory of its own, on free ports."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from vitrail.client import Client, CollectionStats

PATIENCE = 60.0


class Running:
    """`vitrail up` as a user runs it."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        command = [sys.executable, "-m", "vitrail.cli.main", "up", "--data", str(data), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.first_line = self.process.stdout.readline() if self.process.stdout else ""
        assert self.first_line.startswith("ready "), self.log.read_text()[-3000:]
        self.address = self.first_line.split()[1]

    def children(self) -> dict[str, psutil.Process]:
        """The processes of the cluster by what they are: "server", "shard-0" and so on."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end, or have ended, meanwhile
                words = child.cmdline()
                if "shard" in words:
                    found[f"shard-{words[words.index('--index') + 1]}"] = child
                elif "server" in words:
                    found["server"] = child
        return found

    def shards(self) -> list[psutil.Process]:
        """The processes of shards, replicas and all."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end meanwhile
                found += [child] if "shard" in child.cmdline() else []
        return found

    def kill(self, name: str) -> psutil.Process:
        """Kill -9 one process, once it is there."""
        eventually(lambda: name in self.children())
        process = self.children()[name]
        process.kill()
        return process

    def stop(self) -> str:
        """End it as Ctrl-C does; returns the rest of its standard output."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        return rest

    def stop_hard(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something is true; fails with what it is called when it never is."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, f"never: {condition}"
        time.sleep(0.02)


def scrape(address: str) -> dict[str, float]:
    """The samples that a process serves, by name with labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def wait_applied(client: Client, name: str) -> CollectionStats:
    """Wait until every shard has applied all that the store holds of a collection."""

    def applied() -> bool:
        stats = client.stats(name)
        return all(partition.reachable and partition.seq == stats.seq for partition in stats.partitions)

    eventually(applied)
    return client.stats(name)


def wait_trained(client: Client, name: str) -> CollectionStats:
    """Wait until every partition of a collection is trained and its tail is folded."""
    eventually(lambda: all(p.state == "trained" and p.tail < 8 for p in client.stats(name).partitions))
    return client.stats(name)
