"""The indexes of a partition, and the only module that knows faiss.

`Flat` compares with every vector, where it lies in the partition's memory-mapped file. `Trained` is the IVF-PQ index
in RAM that proposes candidates. `Reranked` is both together: what a search of a trained partition goes through. All
number their vectors by row, and take a bitmap of the rows that count.

A score is larger for better, whatever the metric: Euclidean distances are negated here, at the edge of faiss.
"""

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from vitrail.shard.device import Device, DeviceLists
from vitrail.shard.files import Mismatch
from vitrail.shard.lending import lend

Metric = Literal["cosine", "inner_product", "euclidean"]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]

# k-means wants at least this many points a centroid (faiss, ClusteringParameters.min_points_per_centroid).
POINTS_PER_LIST = 39
# More training points than this a list, or fewer than this in all, made no better index (docs/index.md).
POINTS_WORTH_IT = 64
SMALLEST_SAMPLE = 16_384
# Below this many dimensions there is nothing to compress: lists of plain vectors.
PLAIN_BELOW = 16
MAX_COMPONENTS = 256
# Where parts of two components lose more than they save: of 32 dimensions they found 0.90, single ones 0.99.
ONE_A_PART_UP_TO = 64
# How faiss scans 4-bit codes: with a reservoir of candidates, query by query (11), a fifth faster than its own choice
# for the 50 to 400 candidates that we ask for; or list by list for all queries (13), which pays where there are many
# queries and the codes outgrow the processor's cache (458 us a query came down to 273 at 500,000 rows).
QUERY_BY_QUERY, LIST_BY_LIST = 11, 13
MANY_QUERIES, MANY_BYTES = 32, 8 << 20
# Bytes that an inverted list keeps for each vector besides its code: a 64-bit id.
ID_BYTES = 8
# A request for few hits still reranks as if for this many, since the best candidate by code is seldom the best.
FEWEST_HITS = 10
MAX_CANDIDATES = 4096
# The codes that a GPU can search: of 8 bits a part, and so many bytes (faiss, gpu/impl/IVFPQ.cu).
GPU_CODE_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
# What searches work in, kept by each process: some dozens of queries at a time. Left alone faiss takes 1.5 GiB of a
# GPU that several shards and an embedder may share; where this is too little it allocates more as it goes.
GPU_SCRATCH_BYTES = 256 << 20


class Choices(BaseModel):
    """What is not left to `choose_recipe`: 0 where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    components: int = 0
    lists: int = 0
    code_bytes: int = 0
    bits: int = 0
    bytes_a_record: float = 0.0
    """What the index may take in RAM for each record, its id included; 0 for no limit."""
    for_gpu: bool = False
    """Whether the shard has a GPU to search it."""

    def of_collection(self) -> "Choices":
        """What the collection asks for; what the shard has to offer apart."""
        return self.model_copy(update={"bytes_a_record": 0.0, "for_gpu": False})


class Recipe(BaseModel):
    """How a trained index is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    factory: str
    """In faiss's factory language."""
    lists: int
    bits: int
    """Of each part of a code; 32 where vectors are kept as they are."""
    code_bytes: int
    reason: str
    """For people."""

    @property
    def fits_gpu(self) -> bool:
        return self.bits == 8 and self.code_bytes in GPU_CODE_BYTES


@dataclass(frozen=True, slots=True)
class Setting:
    """How a trained index is searched."""

    nprobe: int
    rerank_factor: float
    """Candidates that are reranked, as a multiple of the hits that are wanted."""

    def candidates(self, k: int) -> int:
        """How many candidates are reranked for k hits."""
        wanted = round(self.rerank_factor * max(k, FEWEST_HITS))
        return max(k, min(wanted, max(MAX_CANDIDATES, 2 * k)))


def choose_recipe(records: int, dimension: int, choices: Choices | None = None) -> Recipe:
    """PCA where it pays, lists by the square root of the records, 4-bit PQ of two components a part.

    `make bench` measures what it reaches, and docs/index.md says what else was tried.
    """
    choices = choices or Choices()
    lists = max(1, min(choices.lists or round(records**0.5), records // POINTS_PER_LIST))
    why = [f"{lists:,} lists for {records:,} records" + (", as the collection asks" if choices.lists else "")]
    if dimension < PLAIN_BELOW:
        why.append(f"{dimension} dimensions are too few to compress")
        return Recipe(factory=f"IVF{lists},Flat", lists=lists, bits=32, code_bytes=4 * dimension, reason="; ".join(why))
    components = choices.components or min(MAX_COMPONENTS, dimension)
    # PCA from fewer rows than twice its components fits noise.
    components = max(1, min(components, dimension, max(PLAIN_BELOW, records // 2)))
    bits = choices.bits or (8 if choices.for_gpu else 4)
    if records < 1 << bits:  # faiss wants a row for each of the values that a part can take
        bits = 4
        why.append("too few for parts of 8 bits")
    per_part = (2 if components > ONE_A_PART_UP_TO else 1) if bits == 4 else 4
    parts = choices.code_bytes * 8 // bits if choices.code_bytes else components // per_part
    parts = max(1, min(parts, components))
    if choices.bytes_a_record:
        affordable = int((choices.bytes_a_record - ID_BYTES) * 8 // bits)
        if affordable < parts:
            parts = max(1, affordable)
            why.append(f"codes cut to fit {choices.bytes_a_record:.0f} bytes a record in RAM")
    if choices.for_gpu and bits == 8:
        parts = max(size for size in GPU_CODE_BYTES if size <= parts)
        why.append("codes that a GPU can search")
    components -= components % parts
    code_bytes = (parts * bits + 7) // 8
    why.append(f"{components} of {dimension} dimensions in {code_bytes} bytes: {parts} parts of {bits} bits")
    prefix = f"PCAR{components}," if components < dimension else ""
    # "np": without arranging the values of parts for polysemous search, which is nine tenths of the training.
    codes = f"PQ{parts}x4fs" if bits == 4 else f"PQ{parts}x{bits}np"
    return Recipe(
        factory=f"{prefix}IVF{lists},{codes}", lists=lists, bits=bits, code_bytes=code_bytes, reason="; ".join(why)
    )


def training_rows(recipe: Recipe) -> int:
    """How many rows are worth training on."""
    return max(recipe.lists * POINTS_WORTH_IT, SMALLEST_SAMPLE)


class Flat:
    """Every row of a partition, compared exactly, without a copy.

    Args:
        vectors: float16 or float32 [n, d], C-contiguous; read where it lies, so that it may be a memory map.
        metric: Cosine expects unit vectors.
    """

    def __init__(self, vectors: NDArray[Any], metric: Metric) -> None:
        rows, dimension = vectors.shape
        self.metric = metric
        self._vectors = vectors  # faiss holds no reference
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

    def search(self, queries: Floats, k: int, live: Bits | None = None) -> tuple[Floats, Rows]:
        """Find the k best rows.

        Args:
            queries: float32 [q, d].
            k: How many.
            live: The rows that count: one bit a row, the lowest first; rows beyond its end do not. None: all rows.

        Returns:
            Scores float32 [q, k] and rows int64 [q, k], best first; row -1 where there are fewer.
        """
        if not self.index.ntotal:
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        parameters = None if live is None else faiss.SearchParameters(sel=_selector(live))
        scores, rows = self.index.search(queries, k, params=parameters)
        return _larger_is_better(scores, self.metric), rows

    def among(self, queries: Floats, k: int, rows: Rows) -> tuple[Floats, Rows]:
        """Find the k best of some rows int64 [n], gathered to lie side by side; as `search`."""
        scores, places = Flat(np.ascontiguousarray(self._vectors[rows]), self.metric).search(queries, k)
        return scores, np.where(places >= 0, np.append(rows, -1)[places], -1)

    def scores(self, query: Floats, rows: Rows) -> Floats:
        """Score float32 [d] against rows int64 [n]; float32 [n]."""
        vectors = self._vectors[rows].astype(np.float32)
        if self.metric == "euclidean":
            vectors -= query
            return -np.einsum("nd,nd->n", vectors, vectors)
        found: Floats = vectors @ query
        return found


def to_float32(vectors: NDArray[np.float16] | Floats) -> Floats:
    """Vectors [n, d] as a table keeps them, in single precision; faiss reads half precision faster than NumPy."""
    if vectors.dtype != np.float16:
        return vectors.astype(np.float32, copy=False)
    codes = np.ascontiguousarray(vectors).view(np.uint8).reshape(len(vectors), -1)
    decoded: Floats = faiss.ScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16).decode(codes)
    return decoded


class Trained:
    """An IVF-PQ index in RAM over the first rows of a partition.

    faiss allows many searches at once but none beside an `add`, so both hold one lock, each for a few milliseconds:
    callers cut their work into slices.

    Where there is a device, a copy of it there proposes candidates; this one stays, for what the copy cannot do.
    """

    copy: DeviceLists | None = None
    place: str = ""
    """For people: where it is searched, if there is more to say than in RAM."""

    def __init__(self, index: Any, recipe: Recipe, metric: Metric, device: Device | None = None) -> None:
        self.recipe = recipe
        self.metric = metric
        self.index = index
        self.lock = threading.Lock()
        self._transform, self._lists = None, index
        if isinstance(index, faiss.IndexPreTransform):
            self._transform = faiss.downcast_VectorTransform(index.chain.at(0))
            self._lists = faiss.downcast_index(index.index)
        self._is_fast_scan = isinstance(self._lists, faiss.IndexIVFFastScan)
        self._nearest = self._best = faiss.downcast_index(self._lists.quantizer)
        if metric == "inner_product":
            # By inner product the longest centroids would attract everything: a vector goes to the list that is
            # nearest, and a query asks those that promise most. At a quarter of the lists that raised recall from
            # 0.63 to 0.98 where lengths vary by a factor of three.
            self._nearest = faiss.IndexFlatL2(self._lists.d)
            self._nearest.add(self._best.reconstruct_n(0, recipe.lists))
        if device is not None and recipe.fits_gpu:
            try:
                self.copy, self.place = DeviceLists(device, self._lists, self._nearest), "searched by a GPU"
            except RuntimeError as error:
                self.leave_device(error)

    @classmethod
    def train(cls, sample: Floats, recipe: Recipe, metric: Metric) -> "Trained":
        """Train on float32 [n, d]; the result holds no vectors yet."""
        index = faiss.index_factory(sample.shape[1], recipe.factory, _metric(metric))
        if metric == "inner_product":
            lists = faiss.extract_index_ivf(index)
            best, nearest = faiss.downcast_index(lists.quantizer), faiss.IndexFlatL2(lists.d)
            lists.cp.spherical = False
            lend(lists, "quantizer", nearest)
            index.train(sample)
            best.add(nearest.reconstruct_n(0, recipe.lists))
            lend(lists, "quantizer", best)
        else:
            index.train(sample)
        if metric != "euclidean" and isinstance(index, faiss.IndexPreTransform):
            # The PCA subtracts the mean, which distances survive and inner products do not.
            transform = faiss.downcast_VectorTransform(index.chain.at(0))
            faiss.copy_array_to_vector(np.zeros(transform.d_out, np.float32), transform.b)
        return cls(index, recipe, metric)

    @classmethod
    def load(cls, path: Path, recipe: Recipe, metric: Metric, device: Device | None = None) -> "Trained":
        """Read what `save` wrote. The caller has checked its hash: faiss trusts what it reads.

        Raises:
            Mismatch: It is no index that this faiss knows.
            OSError: It cannot be opened.
        """
        path.open("rb").close()  # faiss does not tell a missing file from too many open ones
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise Mismatch(f"{path} cannot be read: {error}") from error
        return cls(index, recipe, metric, device)

    def save(self, path: Path) -> None:
        """Write to a file, beside searches; the caller adds nothing meanwhile.

        Raises:
            OSError: It cannot be written, as on a full disk.
        """
        try:
            faiss.write_index(self.index, str(path))
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    def add(self, vectors: Floats, rows: Rows) -> None:
        """Add float32 [n, d] under their row numbers int64 [n]."""
        vectors = self.transformed(vectors)  # half of the work, and no search has to wait for it
        with self.lock:
            lend(self._lists, "quantizer", self._nearest)
            try:
                self._lists.add_with_ids(vectors, rows)
            finally:
                lend(self._lists, "quantizer", self._best)  # which it owns, and frees
            self.index.ntotal = self._lists.ntotal
        if (copy := self.copy) is not None:
            try:
                copy.add(vectors, rows)
            except RuntimeError as error:
                self.leave_device(error)

    def transformed(self, vectors: Floats) -> Floats:
        """Vectors or queries float32 [n, d] as its lists know them, [n, components]."""
        if self._transform is None:
            return vectors
        components: Floats = self._transform.apply(vectors)
        return components

    def leave_device(self, error: Exception) -> None:
        """Go on in RAM alone, since the device failed: others may have taken its memory."""
        self.copy, self.place = None, f"not searched by a GPU: {error}"

    def tune(self, queries: int) -> None:
        """Set what suits a search of so many queries; the caller holds the lock."""
        if self._is_fast_scan:
            many = queries >= MANY_QUERIES and self.bytes >= MANY_BYTES
            self._lists.implem = LIST_BY_LIST if many else QUERY_BY_QUERY

    def clear(self) -> None:
        """Forget all vectors, not the training."""
        self.index.reset()

    @property
    def bytes(self) -> int:
        """What its lists take in RAM."""
        return int(self.index.ntotal) * (self.recipe.code_bytes + ID_BYTES)


class Reranked:
    """A trained index whose candidates are compared exactly, as one view of a partition searches them.

    Building faiss's parameter objects costs a third of a search (80 of 250 µs at 25,000 rows), so they are kept.

    Args:
        trained: Proposes candidates.
        flat: Compares them; may hold more rows.
        live: The rows that count: one bit a row, the lowest first; rows beyond its end do not.
    """

    def __init__(self, trained: Trained, flat: Flat, live: Bits) -> None:
        self._trained = trained
        self._flat = flat
        self._live = live
        self._selector = _selector(live)
        self._parameters: dict[tuple[int, float], Any] = {}
        # Its constructor wants both to hold as many vectors, and `flat` has the tail's too.
        empty = _empty(trained.index.d, trained.index.metric_type)
        self._index = faiss.IndexRefine(empty, empty)
        lend(self._index, "base_index", trained.index)
        lend(self._index, "refine_index", flat.index)
        self._index.ntotal = flat.index.ntotal

    def search(self, queries: Floats, k: int, setting: Setting) -> tuple[Floats, Rows]:
        """Find about the k best rows for float32 [q, d], scored exactly; as `Flat.search`."""
        if self._trained.copy is not None:
            rows = self.candidates(queries, setting.candidates(k), setting.nprobe)
            found = [
                self._flat.among(query[np.newaxis], k, proposed[proposed >= 0])
                for query, proposed in zip(queries, rows, strict=True)
            ]
            scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
            return scores, rows
        key = (setting.nprobe, setting.candidates(k) / k)
        parameters = self._parameters.get(key)
        if parameters is None:
            parameters = faiss.IndexRefineSearchParameters(k_factor=key[1], base_index_params=self._base(key[0]))
            self._parameters[key] = parameters
        with self._trained.lock:
            self._trained.tune(len(queries))
            scores, rows = self._index.search(queries, k, params=parameters)
        return _larger_is_better(scores, self._trained.metric), rows

    def candidates(self, queries: Floats, count: int, nprobe: int) -> Rows:
        """What the trained index proposes before anything is compared exactly: rows int64 [q, count], -1 for none."""
        copy = self._trained.copy
        if copy is None:
            return self._from_ram(queries, count, nprobe)
        try:
            rows, enough = copy.candidates(self._trained.transformed(queries), count, nprobe, self._live)
        except RuntimeError as error:
            self._trained.leave_device(error)
            return self._from_ram(queries, count, nprobe)
        if not enough.all():
            rows[~enough] = self._from_ram(queries[~enough], count, nprobe)
        return rows

    def _from_ram(self, queries: Floats, count: int, nprobe: int) -> Rows:
        with self._trained.lock:
            self._trained.tune(len(queries))
            _, rows = self._trained.index.search(queries, count, params=self._base(nprobe))
        found: Rows = rows
        return found

    def _base(self, nprobe: int) -> Any:
        inverted = faiss.SearchParametersIVF(sel=self._selector, nprobe=nprobe)
        if isinstance(self._trained.index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=inverted)
        return inverted


def find_device(wanted: Literal["auto", "cpu", "cuda"]) -> Device | None:
    """The first GPU that faiss sees, or None where there is none or none is wanted.

    Raises:
        ValueError: One must be, and there is none.
    """
    if wanted == "cpu":
        return None
    if not faiss.get_num_gpus():
        if wanted == "cuda":
            raise ValueError("device: there is no GPU here that faiss can use")
        return None
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    resources.setPinnedMemory(0)  # serves copies of more than 256 MiB at once

    def copy(index: Any) -> Any:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = isinstance(index, faiss.IndexIVFPQ)  # tables for codes of more than 48 bytes fit so only
        return faiss.index_cpu_to_gpu(resources, 0, index, options)

    return Device(copy)


def use_one_thread() -> None:
    """Search on the calling thread alone: a shard has one core, and more threads than cores cost a factor."""
    faiss.omp_set_num_threads(1)


def _metric(metric: Metric) -> int:
    return int(faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT)


@cache
def _empty(dimension: int, metric_type: int) -> Any:
    return faiss.IndexFlat(dimension, metric_type)


def _selector(live: Bits) -> Any:
    # The first argument counts bytes; ids beyond them are left out.
    selector = faiss.IDSelectorBitmap(live.size, faiss.swig_ptr(live))
    selector.bits = live  # keeps the memory alive as long as the selector
    return selector


def _larger_is_better(scores: Floats, metric: Metric) -> Floats:
    return -scores if metric == "euclidean" else scores
