"""From image bytes to vectors: decoded in threads, embedded in batches on the device's own thread."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import EmbeddingSpaceMismatch, FailedPrecondition, InvalidArgument, ResourceExhausted
from vitrail.server import metrics
from vitrail.server.batching import Batcher, Ticket
from vitrail.server.decode import ImageLimits, decode, thumbnail
from vitrail.server.embedder import Embedder
from vitrail.v1.collection_pb2 import Collection

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A unit vector float32 [d] and, where asked for, a small JPEG. Times in seconds."""

    vector: NDArray[np.float32]
    thumbnail: bytes
    decode: float
    wait: float
    embed: float


@dataclass(frozen=True, slots=True)
class _Vector:
    vector: NDArray[np.float32]
    wait: float
    embed: float


class Pipeline:
    """Embeds images. Nothing heavy is loaded before the first one."""

    def __init__(self, embedder: Embedder, limits: ImageLimits, *, threads: int, batch: int, capacity: int) -> None:
        self.embedder = embedder
        self._limits = limits
        self._capacity = capacity
        self._in_decoding = 0
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._device = ThreadPoolExecutor(1, "embed")
        self.batcher: Batcher[Pixels, _Vector] = Batcher("embed", self._process, limit=batch, capacity=capacity)

    async def embed(self, image: bytes, deadline: Deadline, *, field: str, with_thumbnail: bool = False) -> Embedded:
        """Turn one encoded image into a vector.

        Raises:
            InvalidArgument: It cannot be decoded, or is too large; `field` is named.
            ResourceExhausted: Too many images wait already.
            DeadlineExceeded: The time is over.
        """
        if self._in_decoding >= self._capacity:
            metrics.REFUSED.labels("decode").inc()
            raise ResourceExhausted("too many images wait to be decoded", retry_after=1.0)
        self._in_decoding += 1
        start = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            pixels, small = await loop.run_in_executor(self._decoders, self._decode, image, field, with_thumbnail)
        except InvalidArgument:
            metrics.IMAGES_REFUSED.inc()
            raise
        finally:
            self._in_decoding -= 1
        decoded = time.monotonic()
        found = await self.batcher.submit(pixels, deadline)
        return Embedded(found.vector, small, decoded - start, found.wait, found.embed)

    def close(self) -> None:
        self._decoders.shutdown(cancel_futures=True)
        self._device.shutdown(cancel_futures=True)

    def _decode(self, image: bytes, field: str, with_thumbnail: bool) -> tuple[Pixels, bytes]:
        decoded = decode(image, self._limits, self.embedder.resize, field=field)
        return self.embedder.preprocess(decoded), thumbnail(decoded) if with_thumbnail else b""

    async def _process(self, tickets: Sequence[Ticket[Pixels, _Vector]]) -> None:
        start = time.monotonic()
        pixels = np.stack([ticket.item for ticket in tickets])
        vectors = await asyncio.get_running_loop().run_in_executor(self._device, self.embedder.embed, pixels)
        seconds = time.monotonic() - start
        metrics.EMBEDDER_LOADED.set(1)
        metrics.IMAGES_EMBEDDED.inc(len(tickets))
        for ticket, vector in zip(tickets, vectors, strict=True):
            ticket.answer(_Vector(vector, start - ticket.queued, seconds))


class Pipelines:
    """What this server embeds with: one pipeline an embedding space. The first is what new collections take."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._pipelines = pipelines

    def embedder(self, name: str) -> Embedder:
        """An embedder by its name; the default where that is empty.

        Raises:
            InvalidArgument: This server has none of that name.
        """
        embedders = [pipeline.embedder for pipeline in self._pipelines]
        for embedder in embedders:
            if name in ("", embedder.name):
                return embedder
        has = ", ".join(repr(embedder.name) for embedder in embedders)
        raise InvalidArgument(f"this server has {has}, not {name!r}", field="embedder")

    def find(self, collection: Collection) -> Pipeline | None:
        """What embeds images for a collection; None where nothing here does."""
        if not collection.space:
            return None
        return next((each for each in self._pipelines if each.embedder.space == collection.space), None)

    def of(self, collection: Collection) -> Pipeline:
        """What embeds images for a collection.

        Raises:
            FailedPrecondition: It holds vectors that callers bring.
            EmbeddingSpaceMismatch: Its vectors were made by an embedder that this server does not have.
        """
        found = self.find(collection)
        if found is not None:
            return found
        if not collection.space:
            raise FailedPrecondition(f"{collection.name!r} holds vectors of its callers: bring a vector, not an image")
        has = ", ".join(each.embedder.space for each in self._pipelines)
        raise EmbeddingSpaceMismatch(
            f"{collection.name!r} is in the space {collection.space}, this server embeds in {has}"
        )
