from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tests.client.fakes import Fake, serving

from vitrail.client import Client
from vitrail.client.images import encode


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as fake:
        yield fake


@pytest.fixture
def client(fake: Fake) -> Iterator[Client]:
    with Client(fake.address, timeout=10.0) as client:
        yield client


def picture(seed: int, width: int = 24, height: int = 16) -> bytes:
    """A PNG of noise, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encode(Image.fromarray(pixels))
