"""A ClusterIP as kube-proxy makes it: each connection goes to one of the endpoints by chance, and stays there.

`python -m tests.stand.proxy HOST:PORT FILE`: the endpoints are the lines of the file, read for each connection anew.
Each is HOST:PORT or the path of a socket.
"""

import asyncio
import contextlib
import random
import sys
from pathlib import Path

import uvloop

from vitrail.rpc.process import die_with_parent

CHUNK = 1 << 18


def main() -> None:
    die_with_parent()
    address, endpoints = sys.argv[1:]
    uvloop.run(serve(address, Path(endpoints)))


async def serve(address: str, endpoints: Path) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await _connected(random.choice(_lines(endpoints)))
        except (OSError, IndexError):  # nobody is ready: refused
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    host, port = _split(address)
    server = await asyncio.start_server(forward, host, port, limit=CHUNK)
    await server.serve_forever()


def _lines(path: Path) -> list[str]:
    return path.read_text().split()


async def _connected(endpoint: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.startswith("/"):
        return await asyncio.open_unix_connection(endpoint, limit=CHUNK)
    return await asyncio.open_connection(*_split(endpoint), limit=CHUNK)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
