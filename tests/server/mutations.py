"""Good images changed at random, each by its seed: `python -m tests.server.mutations 0 2000`.

The seed is printed before its file is decoded, so that the last one printed is the one that killed the process.
"""

import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

from PIL import Image

from tests.server import images, profiles
from tests.server.corpus import FILES, PICTURE, attempt
from tests.server.images import encode, jpeg

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Result:
    """What became of one file; CPU seconds of all threads."""

    seed: int
    decoded: bool
    cpu: float
    pixels: int


@cache
def originals() -> list[bytes]:
    faded, profile = images.faded(PICTURE), profiles.of_primaries(profiles.P3, 2.2)
    more = {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size)]}
    turned, exif = images.oriented(PICTURE, 6)
    return [
        *FILES.values(),
        profiles.in_jpeg(jpeg(PICTURE.convert("CMYK"), progressive=True), profile),
        jpeg(turned, exif=exif, restart_marker_rows=1, icc_profile=profile),
        encode(PICTURE, "PNG", icc_profile=profile, **more),
        encode(faded.quantize(), "PNG", exif=exif),
        encode(images.sixteen_bit(PICTURE), "PNG"),
        encode(PICTURE, "GIF", **more),
        encode(faded, "WEBP", lossless=True, icc_profile=profile, exif=exif),
        encode(faded, "WEBP", quality=80, **more),
        encode(faded, "TIFF", compression="tiff_adobe_deflate", icc_profile=profile),
        encode(PICTURE.convert("1"), "TIFF", compression="group4"),
        encode(PICTURE.convert("CMYK"), "TIFF", compression="packbits", **more),
        encode(faded, "AVIF", icc_profile=profile, exif=exif),
        encode(PICTURE, "AVIF", **more),
    ]


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(chance.choice(originals()))
    for _ in range(chance.randint(1, 3)):
        chance.choice((_flip, _length, _splice, _cut, _double))(data, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Half of all places are among the first 400 bytes, where headers are."""
    return chance.randrange(max(1, min(len(data), 400 if chance.random() < 0.5 else len(data))))


def _flip(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at : at + 1] = (
        bytes((chance.randrange(256),))
        if chance.random() < 0.5
        else bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1])
    )


def _length(data: bytearray, chance: random.Random) -> None:
    value, form = chance.choice(EXTREMES), chance.choice((">I", "<I", ">H", "<H", "B"))
    size = struct.calcsize(form)
    at = _place(data, chance)
    data[at : at + size] = struct.pack(form, value & (1 << 8 * size) - 1)


def _splice(data: bytearray, chance: random.Random) -> None:
    """A piece of another file over, or between, what is there."""
    other = chance.choice(originals())
    start, length, at = chance.randrange(len(other)), chance.randint(1, 200), _place(data, chance)
    data[at : at + length * chance.randint(0, 1)] = other[start : start + length]


def _cut(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randint(1, 60)]


def _double(data: bytearray, chance: random.Random) -> None:
    at, length = _place(data, chance), chance.randint(1, 200)
    data[at:at] = data[at : at + length]


def run(first: int, last: int) -> Iterator[Result]:
    """Decode the files of these seeds in a process of its own.

    Raises:
        AssertionError: The process died, or decoding raised something else than it says; the seed is named.
    """
    program = [sys.executable, "-m", "tests.server.mutations", str(first), str(last)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    answer, errors = process.communicate()
    *lines, end = answer.splitlines()
    assert process.returncode == 0, f"{process.returncode} after {end}: {errors[-2000:]}"
    return (Result(**json.loads(line)) for line in [*lines, end] if line.startswith("{"))


def main() -> None:
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        data = mutated(seed)
        print(f"seed {seed}", flush=True)
        start = time.process_time()
        _, image = attempt(data)
        cpu = time.process_time() - start
        pixels = image.width * image.height if image else 0
        print(json.dumps(asdict(Result(seed, image is not None, cpu, pixels))))


if __name__ == "__main__":
    main()
