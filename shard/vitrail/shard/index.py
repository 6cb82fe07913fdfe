"""The indexes of a partition, and the only module that knows faiss.

Two kinds, over the same rows: `Flat` compares with every vector, where it lies in the partition's memory-mapped
file, and `Trained` is the IVF-PQ index in RAM that proposes candidates, which `Flat` then reranks exactly.
Both number their vectors by row, and both take a bitmap of the rows that count.

A score is larger for better, whatever the metric: Euclidean distances are negated here, at the edge of faiss.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

Metric = Literal["cosine", "inner_product", "euclidean"]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]

# k-means wants at least this many points a centroid (faiss, ClusteringParameters.min_points_per_centroid).
POINTS_PER_LIST = 39
# More training points than this a list do not make better lists (faiss, ClusteringParameters).
MAX_POINTS_PER_LIST = 256
# Below this many dimensions there is nothing to compress: lists of plain vectors.
PLAIN_BELOW = 16
MAX_COMPONENTS = 256
MIN_CANDIDATES = 64
# From here on reranking costs more than it finds: factors shrink so that candidates stay below.
MAX_CANDIDATES = 4096


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a trained index is built, and how it is searched unless a request says otherwise."""

    factory: str
    """In faiss's factory language."""
    lists: int
    nprobe: int
    rerank_factor: float
    """Candidates that are reranked, as a multiple of k."""


def choose_recipe(records: int, dimension: int) -> Recipe:
    """PCA where it pays, lists by the square root of the records, 4-bit PQ of two components a code.

    On 50,000 photos in 1,280 dimensions, 128 codes of 4 bits over 256 components and exact reranking of ten
    candidates a hit reach recall@10 0.97 with an eighth of the lists probed (`make bench` measures it again).
    """
    lists = max(1, min(round(2 * records**0.5), records // POINTS_PER_LIST))
    nprobe = min(lists, max(16, lists // 8))
    if dimension < PLAIN_BELOW:
        return Recipe(f"IVF{lists},Flat", lists, nprobe, rerank_factor=1.0)
    components, prefix = dimension, ""
    if dimension > MAX_COMPONENTS:
        # PCA from fewer rows than twice its components fits noise.
        components = max(PLAIN_BELOW, min(MAX_COMPONENTS, records // 2 // 16 * 16))
        prefix = f"PCAR{components},"
    codes = components // 2 if components % 2 == 0 else components
    return Recipe(f"{prefix}IVF{lists},PQ{codes}x4fs", lists, nprobe, rerank_factor=10.0)


def training_rows(recipe: Recipe) -> int:
    """How many rows are worth training on."""
    return max(recipe.lists * MAX_POINTS_PER_LIST, 2 * MAX_COMPONENTS, 16 * MAX_POINTS_PER_LIST)


class Flat:
    """Every row of a partition, compared exactly, without a copy.

    Args:
        vectors: float16 or float32 [n, d], C-contiguous; read where it lies, so that it may be a memory map.
        metric: Cosine expects unit vectors.
    """

    def __init__(self, vectors: NDArray[Any], metric: Metric) -> None:
        rows, dimension = vectors.shape
        self._vectors = vectors  # faiss holds no reference
        self._metric = metric
        if vectors.dtype == np.float16:
            kind = faiss.ScalarQuantizer.QT_fp16
            self.index = faiss.IndexScalarQuantizer(dimension, kind, _metric(metric))
        else:
            self.index = faiss.IndexFlat(dimension, _metric(metric))
        codes, data = self.index.codes, faiss.swig_ptr(vectors.view(np.uint8).reshape(-1))
        codes.is_owned = False
        codes.view_data = codes.c_ptr = data
        codes.view_size = codes.c_size = vectors.nbytes
        self.index.ntotal = rows

    def search(self, queries: Floats, k: int, live: Bits) -> tuple[Floats, Rows]:
        """Find the k best rows whose bit is set.

        Args:
            queries: float32 [q, d].
            k: How many.
            live: One bit a row, the lowest first; rows beyond its end do not count.

        Returns:
            Scores float32 [q, k] and rows int64 [q, k], best first; row -1 where there are fewer.
        """
        if not self.index.ntotal:
            return _nothing(len(queries), k)
        parameters = faiss.SearchParameters(sel=_selector(live))
        scores, rows = self.index.search(queries, k, params=parameters)
        return _larger_is_better(scores, self._metric), rows


class Trained:
    """An IVF-PQ index in RAM over the first rows of a partition.

    faiss allows many searches at once but none beside an `add`, so both hold one lock, each for a few milliseconds:
    callers cut their work into slices.
    """

    def __init__(self, index: Any, recipe: Recipe, metric: Metric) -> None:
        self.recipe = recipe
        self._index = index
        self._metric = metric
        self._lock = threading.Lock()
        self._empty = faiss.IndexFlat(index.d, index.metric_type)

    @classmethod
    def train(cls, sample: Floats, recipe: Recipe, metric: Metric) -> "Trained":
        """Train on float32 [n, d]; the result holds no vectors yet."""
        index = faiss.index_factory(sample.shape[1], recipe.factory, _metric(metric))
        index.train(sample)
        if metric != "euclidean" and isinstance(index, faiss.IndexPreTransform):
            # The PCA subtracts the mean, which distances survive and inner products do not.
            transform = faiss.downcast_VectorTransform(index.chain.at(0))
            faiss.copy_array_to_vector(np.zeros(transform.d_out, np.float32), transform.b)
        return cls(index, recipe, metric)

    @classmethod
    def load(cls, path: Path, recipe: Recipe, metric: Metric) -> "Trained":
        """Read what `save` wrote. The caller has checked its hash: faiss trusts what it reads.

        Raises:
            OSError: It cannot be read.
        """
        try:
            return cls(faiss.read_index(str(path)), recipe, metric)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be read: {error}") from error

    def save(self, path: Path) -> None:
        """Write to a file, beside searches; the caller adds nothing meanwhile."""
        faiss.write_index(self._index, str(path))

    def add(self, vectors: Floats, rows: Rows) -> None:
        """Add float32 [n, d] under their row numbers int64 [n]."""
        with self._lock:
            self._index.add_with_ids(vectors, rows)

    def search(
        self, queries: Floats, k: int, live: Bits, flat: Flat, nprobe: int, rerank_factor: float
    ) -> tuple[Floats, Rows]:
        """Find about the k best rows whose bit is set, scored exactly by `flat`; as `Flat.search`."""
        candidates = max(k, min(max(k * rerank_factor, MIN_CANDIDATES), max(MAX_CANDIDATES, 2 * k)))
        inverted = faiss.SearchParametersIVF(sel=_selector(live), nprobe=nprobe)
        base = inverted
        if isinstance(self._index, faiss.IndexPreTransform):
            base = faiss.SearchParametersPreTransform(index_params=inverted)
        parameters = faiss.IndexRefineSearchParameters(k_factor=candidates / k, base_index_params=base)
        # Its constructor wants both to hold as many vectors, and `flat` has the tail's too.
        refined = faiss.IndexRefine(self._empty, self._empty)
        refined.base_index, refined.refine_index, refined.ntotal = self._index, flat.index, flat.index.ntotal
        with self._lock:
            scores, rows = refined.search(queries, k, params=parameters)
        return _larger_is_better(scores, self._metric), rows


def use_one_thread() -> None:
    """Search on the calling thread alone: a shard has one core, and more threads than cores cost a factor."""
    faiss.omp_set_num_threads(1)


def _metric(metric: Metric) -> int:
    return int(faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT)


def _selector(live: Bits) -> Any:
    # The first argument counts bytes; ids beyond them are left out.
    selector = faiss.IDSelectorBitmap(live.size, faiss.swig_ptr(live))
    selector.bits = live  # keeps the memory alive as long as the selector
    return selector


def _larger_is_better(scores: Floats, metric: Metric) -> Floats:
    return -scores if metric == "euclidean" else scores


def _nothing(queries: int, k: int) -> tuple[Floats, Rows]:
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)
