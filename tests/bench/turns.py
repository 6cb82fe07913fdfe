"""Things that are compared, measured in turns: what else the machine does meanwhile meets all of them."""

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rates: TypeAlias = dict[str, NDArray[np.float64]]
"""Items a second of each, round by round."""


def in_turns(works: Mapping[str, Callable[[], int]], rounds: int) -> Rates:
    """Run each once a round, another one first each time; a work returns how many items it did."""
    names = list(works)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            done = works[name]()
            rates[name].append(done / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in rates.items()}


def median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


def ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The median over rounds, each compared within itself."""
    return median(one / other)
