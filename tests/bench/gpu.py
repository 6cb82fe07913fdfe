"""A trained index in RAM and on a GPU: whether they agree, and queries/s at the same recall.

One partition in this process, one thread of the CPU: `python -m tests.bench.gpu`. Ends with status 2 where there is no
GPU, and with 1 where they do not agree.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.bench.photos import made
from vitrail.shard.bitmap import pack
from vitrail.shard.building import train
from vitrail.shard.device import Device
from vitrail.shard.index import (
    Choices,
    Flat,
    Floats,
    Reranked,
    Rows,
    Setting,
    Trained,
    choose_recipe,
    find_device,
    use_one_thread,
)

BATCHES = (1, 16, 100, 1000)
K = 10
TARGET = 0.97
SECONDS = 2.0
"""Each rate is measured for so long."""
ALIKE = 0.99
"""The share of hits in common from which on they agree: a GPU adds distances up in half precision."""


@dataclass(frozen=True)
class Measured:
    """One index, searched in one place."""

    name: str
    setting: Setting
    recall: float
    rates: dict[int, float]
    """Queries/s by size of batch."""
    rows: Rows


def compare(device: Device, base: NDArray[Any], queries: Floats, seconds: float = SECONDS) -> list[Measured]:
    """Measure 4-bit codes in RAM, 8-bit ones in RAM, and the same on a device; a tenth of the rows is dead.

    Raises:
        ValueError: The device did not take the index, or left it.
    """
    records, dimension = len(base), queries.shape[1]
    live = np.random.default_rng(0).random(records) < 0.9
    flat, bits, rows = Flat(base, "cosine"), pack(live), np.arange(records)
    _, true = flat.search(queries, K, bits)
    measured = []

    def measure(name: str, trained: Trained, setting: Setting) -> None:
        index = Reranked(trained, flat, bits)
        _, found = index.search(queries, K, setting)
        recall = float(np.mean([len(set(one) & set(other)) / K for one, other in zip(found, true, strict=True)]))
        rates = {batch: _rate(index, queries, batch, setting, seconds) for batch in BATCHES}
        measured.append(Measured(name, setting, recall, rates, found))

    coarse, curve = train(base, rows, choose_recipe(records, dimension), "cosine", 1.0)
    measure("4 bits in RAM", coarse, curve.cheapest(TARGET).setting)
    recipe = choose_recipe(records, dimension, Choices(for_gpu=True))
    fine, curve = train(base, rows, recipe, "cosine", 1.0)
    setting = curve.cheapest(TARGET).setting
    measure("8 bits in RAM", fine, setting)
    with TemporaryDirectory() as name:
        fine.save(Path(name) / "index")
        copied = Trained.load(Path(name) / "index", recipe, "cosine", device)
    measure("8 bits on the GPU", copied, setting)
    if copied.copy is None:
        raise ValueError(copied.place)
    return measured


def _rate(index: Reranked, queries: Floats, batch: int, setting: Setting, seconds: float) -> float:
    asked = np.resize(queries, (max(batch, len(queries)), queries.shape[1]))
    index.search(asked[:batch], K, setting)  # brings everything up
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        first = done % (len(asked) - batch + 1)
        index.search(asked[first : first + batch], K, setting)
        done += batch
    return done / (time.perf_counter() - start)


def alike(one: Rows, other: Rows) -> float:
    """The share of hits that two answers have in common."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(one, other, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--cache", type=Path, default=Path("bench-out"), help="where vectors are kept between runs")
    given = parser.parse_args()
    device = find_device("auto")
    if device is None:
        print("no GPU here", file=sys.stderr)
        sys.exit(2)
    use_one_thread()
    measured = compare(device, *made(given.cache, None, given.vectors, 1000))
    table = Table(
        f"{given.vectors:,} vectors",
        "probed, reranked",
        f"recall@{K}",
        *(f"queries/s, batches of {n}" for n in BATCHES),
    )
    for one in measured:
        how = f"{one.setting.nprobe}, {one.setting.candidates(K)}"
        table.add_row(one.name, how, f"{one.recall:.3f}", *(f"{rate:,.0f}" for rate in one.rates.values()))
    Console().print(table)
    common = alike(measured[1].rows, measured[2].rows)
    print(f"hits in common of 8 bits in RAM and on the GPU: {common:.4f}")
    sys.exit(0 if common >= ALIKE else 1)


if __name__ == "__main__":
    main()
