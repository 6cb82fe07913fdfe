"""Embedding on a GPU: images/s against the bare model on data that is there, where the time goes, and nvJPEG.

A part of `python -m tests.bench.embedding`; alone, `python -m tests.bench.embed_gpu`. With `--device cpu` the same runs
on a CPU, in fewer and smaller batches, which shows that it runs and no more.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from tests.bench.bare import THREADS, Bare, Way
from tests.bench.decode import large
from tests.bench.photos import encoded, opened
from tests.bench.report import Section, show
from tests.bench.turns import in_turns, median, ratio
from vitrail.server.embedders.efficientnet import EfficientNetLite0
from vitrail.server.embedders.network import Pixels

BATCHES = {"cuda": (1, 8, 64, 256), "cpu": (1, 8)}
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = {"cuda": HALVES, "cpu": {"fp32": torch.float32, "bf16": torch.bfloat16}}
TURN_SECONDS = 0.5
PROFILED, PROFILED_BATCH, PROFILED_ROWS = 10, {"cuda": 64, "cpu": 8}, 15
DECODED = 64
"""JPEGs that nvJPEG gets at once."""


class Compared(NamedTuple):
    """By batch, images/s as a share of those of the faster precision of the bare model; and all figures."""

    ratios: dict[int, float]
    section: Section


def compare(embedder: EfficientNetLite0, device: str, batches: Sequence[int], rounds: int) -> Compared:
    """The bare model with data on the device, in several precisions, and the embedder with pixels in RAM.

    The embedder's share holds the way of the pixels to the device and of the vectors back.
    """
    bares = {name: Bare(device, dtype) for name, dtype in PRECISIONS[device].items()}
    rows, ratios = [], {}
    for batch in batches:
        pixels = drawn(batch, embedder.preprocessing.crop)
        works: dict[str, Callable[[], object]] = {
            name: partial(bare.all, bare.images(pixels), Way(batch)) for name, bare in bares.items()
        }
        works[""] = partial(embedder.embed, pixels)
        rates = in_turns({name: repeated(work, batch) for name, work in works.items()}, rounds)
        ours = rates.pop("")
        best = max(rates, key=lambda name: median(rates[name]))
        ratios[batch] = ratio(ours, rates[best])
        of_bare = [f"{median(found):,.0f}" for found in rates.values()]
        rows.append((f"{batch}", *of_bare, f"{median(ours):,.0f}", f"{ratios[batch]:.3f}"))
    columns = ("batch", *(f"bare {name}, images/s" for name in bares), "the embedder, images/s", "ratio")
    note = "The bare model has floats on the device; the embedder gets uint8 in RAM and gives vectors in RAM."
    return Compared(ratios, Section(f"batches on {device}", columns, rows, note))


def drawn(count: int, side: int) -> Pixels:
    """Pixels of no meaning, uint8 [count, side, side, 3]; what they show costs no model anything."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def repeated(work: Callable[[], object], items: int) -> Callable[[], int]:
    """The same work as often as takes some `TURN_SECONDS`; returns how many items were done."""
    work()  # brings everything up
    start = time.perf_counter()
    work()
    times = max(1, math.ceil(TURN_SECONDS / (time.perf_counter() - start)))

    def turn() -> int:
        for _ in range(times):
            work()
        return times * items

    return turn


def profile(embedder: EfficientNetLite0, device: str) -> Section:
    """Where the time of the embedder goes: kernel by kernel on a GPU, operation by operation on a CPU."""
    from torch.profiler import ProfilerActivity

    batch = PROFILED_BATCH[device]
    pixels = drawn(batch, embedder.preprocessing.crop)
    embedder.embed(pixels)
    start = time.perf_counter()
    for _ in range(PROFILED):
        embedder.embed(pixels)
    clock = 1000 * (time.perf_counter() - start) / PROFILED
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(PROFILED):
            embedder.embed(pixels)
    # On a GPU those of the CPU have the time of the kernels that they start once more.
    found = [each for each in profiled.key_averages() if each.device_type.name == device.upper()]

    def milliseconds(each: Any) -> float:
        taken = each.self_device_time_total if device == "cuda" else each.self_cpu_time_total
        return float(taken) / PROFILED / 1000

    whole = sum(map(milliseconds, found))
    rows = [
        (
            f"`{each.key[:70]}`",
            f"{each.count / PROFILED:.0f}",
            f"{milliseconds(each):.3f}",
            f"{milliseconds(each) / whole:.1%}",
        )
        for each in sorted(found, key=milliseconds, reverse=True)[:PROFILED_ROWS]
    ]
    note = f"A batch takes {clock:.2f} ms by the clock, and while it is profiled {whole:.2f} ms of the {device}."
    title = f"where the embedder's time goes on {device}, batches of {batch}"
    return Section(title, ("", "calls", "ms", "share"), rows, note)


def decoding(sets: dict[str, list[bytes]], device: str, rounds: int) -> Section:
    """Whole files to pixels: by the server's threads, by torchvision in as many, and by torchvision on the device."""
    rows = []
    with ThreadPoolExecutor(THREADS) as pool:
        for name, files in sets.items():
            encoded_files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
            works: dict[str, Callable[[], int]] = {
                "vitrail": repeated(lambda files=files: list(pool.map(opened, files)), len(files)),  # type: ignore[misc]
                "torchvision": repeated(
                    lambda files=encoded_files: list(pool.map(on_cpu, files)),  # type: ignore[misc]
                    len(files),
                ),
                "device": repeated(partial(on_device, encoded_files, device), len(files)),
            }
            rates = in_turns(works, rounds)
            cells = [f"{median(found):,.0f}" for found in rates.values()]
            rows.append((name, *cells, f"{ratio(rates['device'], rates['vitrail']):.3f}"))
    columns = ("JPEG", "vitrail, photos/s", "torchvision, photos/s", f"torchvision on {device}, photos/s", "ratio")
    note = (
        f"{THREADS} threads of the CPU; on cuda torchvision has nvJPEG decode up to {DECODED} at once, at full size, "
        "and leaves them there. The ratio is of the device to vitrail, which scales while it decodes."
    )
    return Section(f"decoding on {device}", columns, rows, note)


def on_cpu(data: torch.Tensor) -> torch.Tensor:
    pixels: torch.Tensor = decode_jpeg(data, ImageReadMode.RGB)
    return pixels


def on_device(files: list[torch.Tensor], device: str) -> list[torch.Tensor]:
    """All files at once; returned when they are there."""
    pixels: list[torch.Tensor] = decode_jpeg(files, ImageReadMode.RGB, device=device)
    if device == "cuda":
        torch.cuda.synchronize()
    return pixels


def measure(folder: Path | None, device: str, rounds: int) -> tuple[dict[int, float], list[Section]]:
    """All of this module: the ratios by batch, and the tables."""
    embedder = EfficientNetLite0(THREADS)
    compared = compare(embedder, device, BATCHES[device], rounds)
    sets = {"photos of the collection": encoded(folder, DECODED, "train"), "12 megapixels": [large(12)] * 8}
    return compared.ratios, [compared.section, profile(embedder, device), decoding(sets, device, rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder of JPEGs; the clothing photos or packaged ones if not")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for section in measure(given.folder, given.device, given.rounds)[1]:
        show(section)


if __name__ == "__main__":
    main()
