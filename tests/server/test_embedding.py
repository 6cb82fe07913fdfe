"""Embedding on several devices: real decoding, real queues; the devices are steered by the test."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.server.fakes import eventually, in_time
from tests.server.images import jpeg
from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import DeadlineExceeded
from vitrail.server.decode import ImageLimits
from vitrail.server.embedders import network
from vitrail.server.embedders.network import Network
from vitrail.server.embedders.preprocessing import Preprocessing
from vitrail.server.embedding import Embedded, Pipeline, Pipelines, Workers

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SMALL = Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)
PHOTOS = [jpeg(Image.new("RGB", (16, 16), (grey,) * 3)) for grey in range(0, 256, 32)]


@dataclass(eq=False)
class Steered:
    """A device that embeds a photo as its brightness and who it is, once it is let go on."""

    number: int
    going: threading.Event = field(default_factory=threading.Event)
    broken: bool = False
    begun: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def __call__(self, pixels: Pixels) -> Floats:
        self.begun.append(len(pixels))
        self.threads.add(threading.current_thread().name)
        assert self.going.wait(20)
        if self.broken:
            raise RuntimeError("this device is gone")
        return np.stack([pixels.mean((1, 2, 3)), np.full(len(pixels), self.number)], axis=1).astype(np.float32)


@dataclass(eq=False)
class OnSeveral:
    """An embedder of as many copies as there are devices."""

    name: str
    devices: Sequence[Steered]
    dimension: int = 2
    normalised: bool = False
    preprocessing: Preprocessing = SMALL
    broken: bool = False

    @property
    def space(self) -> str:
        return self.name

    def embed(self, pixels: Pixels) -> Floats:
        return self.devices[0](pixels)

    def copies(self) -> Sequence[Callable[[Pixels], Floats]]:
        if self.broken:
            raise RuntimeError("no such device")
        return self.devices


@contextlib.asynccontextmanager
async def embedding(*embedders: OnSeveral, batch: int = 1) -> AsyncIterator[Sequence[Pipeline]]:
    """Pipelines that run and have been through their first batch, whose devices stand still."""
    workers = Workers(threads=2)
    pipelines = [Pipeline(each, workers, ImageLimits(), batch=batch, capacity=64) for each in embedders]
    devices = [device for each in embedders for device in each.devices]
    running = asyncio.create_task(Pipelines(pipelines).run())
    try:
        for pipeline in pipelines:
            pipeline.embedder.devices[0].going.set()  # type: ignore[attr-defined]
            await pipeline.embed(PHOTOS[0], in_time(), field="image")
        for device in devices:
            device.going.clear()
        yield pipelines
    finally:
        for device in devices:
            device.going.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        workers.close()


def asked(pipeline: Pipeline, photo: int) -> asyncio.Task[Embedded]:
    return asyncio.create_task(pipeline.embed(PHOTOS[photo], in_time(), field="image"))


async def answers(*calls: asyncio.Task[Embedded]) -> list[tuple[int, int]]:
    """Which photo each caller was told of, and by which device."""
    return [(round(float(found.vector[0])) // 32, int(found.vector[1])) for found in await asyncio.gather(*calls)]


async def test_each_device_has_a_batch_of_its_own() -> None:
    """Two batches are under way at once, in a thread each; every caller gets the vector of its own photo."""
    devices = [Steered(0), Steered(1)]
    async with embedding(OnSeveral("both", devices)) as [pipeline]:
        calls = [asked(pipeline, photo) for photo in range(1, 7)]
        await eventually(lambda: [len(device.begun) for device in devices] == [2, 1])
        devices[1].going.set()
        await eventually(lambda: len(devices[1].begun) == 5)
        devices[0].going.set()
        found = await answers(*calls)
        assert [photo for photo, _ in found] == [1, 2, 3, 4, 5, 6]
        assert sorted(device for _, device in found) == [0, 1, 1, 1, 1, 1]
        assert [device.threads for device in devices] == [{"embed-0_0"}, {"embed-1_0"}]


async def test_a_device_that_fails_fails_its_own_batch() -> None:
    """The callers of the others are answered, and so are those that it takes once it works again."""
    devices = [Steered(0), Steered(1, broken=True)]
    async with embedding(OnSeveral("both", devices)) as [pipeline]:
        calls = [asked(pipeline, 1), asked(pipeline, 2)]
        await eventually(lambda: [len(device.begun) for device in devices] == [2, 1])
        for device in devices:
            device.going.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Embedded", "RuntimeError"]
        devices[1].broken = False
        devices[0].going.clear()
        held, answered = asked(pipeline, 3), asked(pipeline, 4)
        await asyncio.wait([held, answered], return_when=asyncio.FIRST_COMPLETED)
        devices[0].going.set()
        done_by = dict(await answers(held, answered))  # either takes both, if it is quick
        assert done_by.keys() == {3, 4}
        assert 1 in done_by.values()


async def test_without_the_other_devices_the_first_goes_on() -> None:
    """What cannot be copied is embedded on one device."""
    device = Steered(0)
    async with embedding(OnSeveral("one", [device, Steered(1)], broken=True)) as [pipeline]:
        device.going.set()
        assert await answers(asked(pipeline, 1), asked(pipeline, 2)) == [(1, 0), (2, 0)]


async def test_embedders_take_turns_on_a_device() -> None:
    """A device has one batch at a time, whosever it is, and one embedder's goes to the device that is free."""
    first, second = OnSeveral("a", [Steered(0), Steered(1)]), OnSeveral("b", [Steered(0), Steered(1)])
    async with embedding(first, second) as [a, b]:
        calls = [asked(a, 1)]
        await eventually(lambda: len(first.devices[0].begun) == 2)
        calls.append(asked(b, 2))
        await eventually(lambda: len(second.devices[1].begun) == 1)
        calls += [asked(b, 3), asked(a, 4)]
        first.devices[0].going.set()
        await eventually(lambda: len(second.devices[0].begun) == 2)
        second.devices[0].going.set()
        await asyncio.wait(calls[2:])
        second.devices[1].going.set()
        assert await answers(*calls) == [(1, 0), (2, 1), (3, 0), (4, 0)]


async def test_what_expires_behind_another_embedder_is_not_begun() -> None:
    """A batch is made up when its device is free: whose time was over by then is not in it."""
    first, second = OnSeveral("a", [Steered(0)]), OnSeveral("b", [Steered(0)])
    async with embedding(first, second) as [a, b]:
        held = asked(a, 1)
        await eventually(lambda: len(first.devices[0].begun) == 2)
        with pytest.raises(DeadlineExceeded):
            await b.embed(PHOTOS[2], Deadline.after(0.05), field="image")
        waiting = asked(b, 3)
        for embedder in (first, second):
            embedder.devices[0].going.set()
        assert await answers(held, waiting) == [(1, 0), (3, 0)]
        assert second.devices[0].begun == [1, 1]


async def test_what_is_late_is_not_decoded() -> None:
    """An image whose time is over when its turn comes costs nothing more, not even if it is none."""
    async with embedding(OnSeveral("one", [Steered(0)])) as [pipeline]:
        with pytest.raises(DeadlineExceeded):
            await pipeline.embed(b"no image", Deadline.after(0), field="image")


def test_a_network_on_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has weights of its own, also behind a method that is called in the model's place, and finds the same."""
    monkeypatch.setattr(network, "devices", lambda: ["cpu", "cpu"])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def features(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.linear(images.mean((2, 3)))
            return found

    model = Model()
    first, second = Network(model, SMALL, forward=model.features, threads=1, precision="full").copies()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    before = first(pixels)
    np.testing.assert_allclose(second(pixels), before)
    model.linear.weight.data.zero_()
    assert not np.allclose(first(pixels), before)
    np.testing.assert_allclose(second(pixels), before)
