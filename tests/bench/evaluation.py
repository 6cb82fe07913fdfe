"""How long an exact evaluation takes, beside one exact search of FAISS for the first ten of the same vectors.

AP over the whole ranking needs all of it, not ten: `python -m tests.bench.evaluation`.
"""

import argparse
from collections.abc import Callable
from functools import partial

import faiss
import numpy as np

from tests.bench.report import Asked, Section, asked_section, show
from tests.bench.turns import in_turns, median, ratio
from vitrail.training.photos import Photo
from vitrail.training.ranking import METRICS, Metric, evaluate
from vitrail.training.vectors import Vectors

BOUND = 1.3


def made(prefix: str, count: int, classes: int, dimension: int) -> Vectors:
    """Unit vectors around the centre of a class each."""
    random = np.random.default_rng(count)
    labels = random.integers(classes, size=count)
    vectors = np.random.default_rng(0).standard_normal((classes, dimension), np.float32)[labels]
    vectors += 2 * random.standard_normal((count, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Vectors([Photo(f"{prefix}{n}", f"class {label}") for n, label in enumerate(labels)], vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    queries = made("q", given.queries, given.classes, given.dimension)
    gallery = made("", given.vectors, given.classes, given.dimension)
    index = faiss.IndexFlatIP(given.dimension)
    index.add(gallery.vectors)

    def search() -> int:
        index.search(queries.vectors, 10)
        return len(queries.photos)

    def ranked(metric: Metric) -> int:
        return len(evaluate(queries, gallery, metric).queries)

    works: dict[str, Callable[[], int]] = {"FAISS, IndexFlatIP, k = 10": search}
    works |= {f"evaluated, {metric}": partial(ranked, metric) for metric in METRICS}
    rates = in_turns(works, given.rounds)
    alone, *ours = rates
    rows = [(name, f"{median(each):,.0f}", f"{given.queries / median(each):,.1f}") for name, each in rates.items()]
    title = f"{given.queries:,} queries, {given.vectors:,} vectors of {given.dimension:,}, {given.classes:,} classes"
    show(Section(title, ("", "queries/s", "seconds"), rows))
    show(asked_section(Asked(f"seconds, {name}", ratio(rates[alone], rates[name]), BOUND, True) for name in ours))


if __name__ == "__main__":
    main()
