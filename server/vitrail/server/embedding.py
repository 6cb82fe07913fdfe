"""From image bytes to vectors: decoded in threads, embedded in batches, on each device by a thread of its own."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray

from vitrail.rpc import tracing
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import (
    DeadlineExceeded,
    EmbeddingSpaceMismatch,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from vitrail.server import metrics, validate
from vitrail.server.batching import Batcher, Ticket
from vitrail.server.decode import ImageLimits, decode, thumbnail
from vitrail.server.embedders.base import Embedder, Replicated, TextEmbedder
from vitrail.server.embedders.network import Floats, Pixels
from vitrail.server.turns import Turns
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.search_pb2 import EmbedInput, TextMethod

log = structlog.get_logger()

# Of bulk work, while somebody else asks too: on a core so many take some 10 ms.
SHARED_BATCH = 1


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector float32 [d] and, where asked for, a small JPEG. Times in seconds."""

    vector: NDArray[np.float32]
    is_unit: bool
    thumbnail: bytes
    decode: float
    wait: float
    embed: float


@dataclass(frozen=True, slots=True)
class _Vector:
    vector: NDArray[np.float32]
    wait: float
    embed: float


class Device:
    """What embeds one batch at a time, whosever it is: a thread, and a lock that is held during the batch."""

    def __init__(self, number: int) -> None:
        self.thread = ThreadPoolExecutor(1, f"embed-{number}")
        self.free = asyncio.Lock()
        self.busy = metrics.DEVICE_SECONDS.labels(number)


class Workers:
    """The threads that all pipelines share: for decoding, and one that feeds each device."""

    def __init__(self, threads: int) -> None:
        self.turns = Turns(threads)
        self.decoders = ThreadPoolExecutor(threads, "decode")
        self.devices = [Device(0)]

    def device(self, number: int) -> Device:
        """One of as many as were ever asked for: how many there are is known when a model is loaded."""
        while len(self.devices) <= number:
            self.devices.append(Device(len(self.devices)))
        return self.devices[number]

    def close(self) -> None:
        for threads in (self.decoders, *(device.thread for device in self.devices)):
            threads.shutdown(cancel_futures=True)


class Pipeline:
    """Embeds for one embedding space. Nothing heavy is loaded before it is needed."""

    def __init__(self, embedder: Embedder, workers: Workers, limits: ImageLimits, *, batch: int, capacity: int) -> None:
        self.embedder = embedder
        self._workers = workers
        self._limits = limits
        self._capacity = capacity
        self._in_decoding = 0
        self._refused = metrics.REFUSED.labels("decode")
        self._loaded = asyncio.Event()
        self.batcher: Batcher[Pixels, _Vector] = Batcher(
            "embed",
            partial(self._process, workers.device(0), embedder.embed),
            limit=batch,
            capacity=capacity,
            shared_limit=min(batch, SHARED_BATCH),
        )

    async def run(self) -> None:
        """Embed what comes until cancelled: on each device a batch of its own."""
        async with asyncio.TaskGroup() as owners:
            owners.create_task(self.batcher.run(free=self._workers.device(0).free))
            await self._loaded.wait()
            for number, embed in enumerate(await self._copies(), 1):
                device = self._workers.device(number)
                owners.create_task(self.batcher.run(partial(self._process, device, embed), device.free))

    async def _copies(self) -> Sequence[Callable[[Pixels], Floats]]:
        """The embedder on the devices after the first."""
        if not isinstance(self.embedder, Replicated):
            return ()
        try:
            return (await asyncio.to_thread(self.embedder.copies))[1:]
        except Exception:  # a device that cannot be used, or has no memory left
            log.exception("embedding on the first device alone", embedder=self.embedder.name)
            return ()

    async def embed(
        self, image: bytes, deadline: Deadline, *, field: str, with_thumbnail: bool = False, bulk: bool = False
    ) -> Embedded:
        """Turn one encoded image into a vector; `bulk` work goes behind queries.

        Raises:
            InvalidArgument: It cannot be decoded, or is too large; `field` is named.
            ResourceExhausted: Too many images wait already.
            DeadlineExceeded: The time is over.
        """
        if self._in_decoding >= self._capacity:
            self._refused.inc()
            raise ResourceExhausted("too many images wait to be decoded", retry_after=1.0)
        self._in_decoding += 1
        start = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            with tracing.span("decode", bytes=len(image)):
                async with self._workers.turns.taken(bulk=bulk):
                    if deadline.remaining <= 0:
                        raise DeadlineExceeded("no time left to decode the image")
                    pixels, small = await loop.run_in_executor(
                        self._workers.decoders, self._decode, image, field, with_thumbnail
                    )
        except InvalidArgument:
            metrics.IMAGES_REFUSED.inc()
            raise
        finally:
            self._in_decoding -= 1
        decoded = time.monotonic()
        found = await self.batcher.submit(pixels, deadline, bulk=bulk)
        return Embedded(found.vector, self.embedder.normalised, small, decoded - start, found.wait, found.embed)

    async def embed_input(self, given: EmbedInput, deadline: Deadline) -> Floats:
        """The vector of an image or a text, float32 [d]."""
        match given.WhichOneof("kind"):
            case "image":
                return (await self.embed(given.image, deadline, field="image", bulk=True)).vector
            case "text":
                validate.text(given.text, "text")
                return (await self.embed_text(given.text, deadline, field="text"))[0]
            case _:
                raise InvalidArgument("give an image or a text", field="inputs")

    async def embed_text(self, text: str, deadline: Deadline, *, field: str) -> tuple[Floats, "TextMethod.ValueType"]:
        """Turn a text into a vector, and say how.

        Raises:
            FailedPrecondition: The embedder has no texts.
            DeadlineExceeded: The time is over.
        """
        embedder = self.embedder
        if not isinstance(embedder, TextEmbedder):
            raise FailedPrecondition(f"{embedder.name!r} embeds images alone, no texts", field=field)
        embedding = asyncio.get_running_loop().run_in_executor(
            self._workers.device(0).thread, embedder.embed_texts, [text]
        )
        try:
            vectors = await asyncio.wait_for(embedding, deadline.remaining)
        except TimeoutError:
            raise DeadlineExceeded("no time left to embed the text") from None
        return vectors[0], embedder.text_method

    def _decode(self, image: bytes, field: str, with_thumbnail: bool) -> tuple[Pixels, bytes]:
        preprocessing = self.embedder.preprocessing
        decoded = decode(image, self._limits, preprocessing.target, background=preprocessing.background, field=field)
        return preprocessing.apply(decoded), thumbnail(decoded) if with_thumbnail else b""

    async def _process(
        self, device: Device, embed: Callable[[Pixels], Floats], tickets: Sequence[Ticket[Pixels, _Vector]]
    ) -> None:
        def embedded() -> Floats:
            return embed(np.stack([ticket.item for ticket in tickets]))

        start = time.monotonic()
        vectors = await asyncio.get_running_loop().run_in_executor(device.thread, embedded)
        seconds = time.monotonic() - start
        self._loaded.set()
        device.busy.inc(seconds)
        metrics.EMBEDDER_LOADED.set(1)
        metrics.IMAGES_EMBEDDED.inc(len(tickets))
        for ticket, vector in zip(tickets, vectors, strict=True):
            ticket.answer(_Vector(vector, start - ticket.queued, seconds))


class Pipelines:
    """What this server embeds with: one pipeline an embedding space. The first is what new collections take."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._pipelines = pipelines

    async def run(self) -> None:
        """Embed what comes until cancelled."""
        await asyncio.gather(*(pipeline.run() for pipeline in self._pipelines))

    def named(self, name: str) -> Pipeline:
        """The one of an embedder; the default where the name is empty.

        Raises:
            InvalidArgument: This server has none of that name.
        """
        for pipeline in self._pipelines:
            if name in ("", pipeline.embedder.name):
                return pipeline
        has = ", ".join(repr(pipeline.embedder.name) for pipeline in self._pipelines)
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
