"""Where the shard processes are: addresses as they were given, the lines of a file, or what a DNS name stands for."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog

from vitrail.rpc.address import host_port

log = structlog.get_logger()

DNS, FILE = "dns:", "file:"
LOOK_SECONDS = 1.0


async def find(sources: Sequence[str]) -> set[str]:
    """The addresses that some sources stand for now, each as HOST:PORT.

    Raises:
        OSError: A file cannot be read, or a name cannot be looked up.
    """
    found = set()
    for source in sources:
        if source.startswith(FILE):
            found |= _lines(source.removeprefix(FILE))
        elif source.startswith(DNS):
            found |= await _look_up(source.removeprefix(DNS))
        else:
            found.add(source)
    return found


async def watch(sources: Sequence[str], use: Callable[[Iterable[str]], None]) -> None:
    """Look again and again, and have the addresses used; while one of the sources fails, those of before stay."""
    failing = False
    while True:
        try:
            use(await find(sources))
            failing = False
        except OSError as error:
            if not failing:
                log.warning("cannot look for shards", why=str(error))
            failing = True
        await asyncio.sleep(LOOK_SECONDS)


def _lines(path: str) -> set[str]:
    return set(Path(path).read_text().split())


async def _look_up(name: str) -> set[str]:
    host, _, port = name.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):  # nothing runs there yet
            return set()
        raise
    return {host_port(str(address[0]), port) for _, _, _, _, address in found}
