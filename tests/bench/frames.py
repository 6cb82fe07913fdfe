"""Just enough HTTP/2 for an echo (RFC 9113): the least that a gRPC server in Python could cost.

Headers are not read, nor limits kept, nor streams ended by anything but an answer, so this serves nothing but a
comparison. What makes it cheap is also what grpc's server cannot do: all requests that one read brings are taken
together, and all answers of one turn of the loop leave in one write.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import cast

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS = 4
PREFACE_BYTES = 24
FRAME_HEADER_BYTES = 9
MESSAGE_HEADER_BYTES = 5
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
WINDOW = 2**30
WINDOW_STEP = 2**20


def literal(name: bytes, value: bytes) -> bytes:
    """A header, neither indexed nor compressed."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


RESPONSE_HEADERS = b"\x88" + literal(b"content-type", b"application/grpc")  # the first byte is ":status: 200"
TRAILERS = literal(b"grpc-status", b"0")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Connection(asyncio.Protocol):
    def __init__(self, handle: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._handle = handle
        self._received = bytearray()
        self._position = PREFACE_BYTES  # what is not needed before it is passed over
        self._requests: dict[int, bytearray] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._answers: list[bytes] = []
        self._consumed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHI", INITIAL_WINDOW_SIZE, WINDOW, MAX_FRAME_SIZE, WINDOW_STEP)
        window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW))
        self._transport.write(frame(SETTINGS, 0, 0, settings) + window)

    def data_received(self, data: bytes) -> None:
        received, position = self._received, self._position
        received += data
        while len(received) >= position + FRAME_HEADER_BYTES:
            size = int.from_bytes(received[position : position + 3], "big")
            end = position + FRAME_HEADER_BYTES + size
            if len(received) < end:
                break
            kind, flags = received[position + 3], received[position + 4]
            stream = int.from_bytes(received[position + 5 : position + FRAME_HEADER_BYTES], "big")
            self._take(kind, flags, stream, received[position + FRAME_HEADER_BYTES : end])
            position = end
        taken = min(position, len(received))
        del received[:taken]
        self._position = position - taken

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray) -> None:
        if kind == DATA:
            self._consumed += len(payload)
            request = self._requests.setdefault(stream, bytearray())
            request += payload
            if flags & END_STREAM:
                call = asyncio.ensure_future(self._answer(stream, self._requests.pop(stream)))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self._transport.write(frame(kind, ACK, 0, bytes(payload) if kind == PING else b""))
        if self._consumed > WINDOW_STEP:
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._consumed)))
            self._consumed = 0

    async def _answer(self, stream: int, request: bytearray) -> None:
        response = await self._handle(bytes(request[MESSAGE_HEADER_BYTES:]))
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._flush)
        message = b"\x00" + struct.pack(">I", len(response)) + response
        self._answers += (
            frame(HEADERS, END_HEADERS, stream, RESPONSE_HEADERS),
            frame(DATA, 0, stream, message),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS),
        )

    def _flush(self) -> None:
        self._transport.write(b"".join(self._answers))
        self._answers.clear()


async def serve(handle: Callable[[bytes], Awaitable[bytes]], started: Callable[[int], None]) -> None:
    """Answer until cancelled, on a free port that `started` is told."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(handle), "127.0.0.1", 0)
    started(server.sockets[0].getsockname()[1])
    await server.serve_forever()
