"""What is measured: plain values, which `--json` prints as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Setting:
    """What was measured where.

    Attributes:
        machine: The processor and cores of the machine that this ran on; the server may have others.
        address: Of the server.
        versions: Of what it was measured with.
        data: What the vectors are called.
        vectors: How many were loaded.
        dimension: Of each.
        queries: How many different ones were asked.
        metric: How they compare.
        shards: Of the server.
        recipe: The index of each shard.
        alone: The index of FAISS in process, over all vectors.
        threads: That FAISS had where it had several: one a shard, as far as this machine has cores.
        batch: Queries of one call in batches.
        seconds: Each rate was measured for.
        command: What was typed.
    """

    machine: str
    address: str
    versions: Mapping[str, str]
    data: str
    vectors: int
    dimension: int
    queries: int
    metric: str
    shards: int
    recipe: Sequence[str]
    alone: str
    threads: int
    batch: int
    seconds: float
    command: str


@dataclass(frozen=True)
class Ingestion:
    """How fast vectors came in. Seconds count from the first call; None where it never came to that.

    Attributes:
        upserted_per_second: Rows written durably, by one caller, an integer attribute with each.
        upserted: Seconds until all calls were answered.
        applied: Until every shard had applied what was written.
        trained: Until every shard with enough records searched a trained index.
        at_rest: Until nothing ran in the background and tails were short.
    """

    upserted_per_second: float
    upserted: float
    applied: float
    trained: float | None
    at_rest: float


@dataclass(frozen=True)
class Build:
    """The same in this process.

    Attributes:
        train_seconds: FAISS's `train` on several threads.
        added_per_second: Rows, FAISS's `add` on one thread.
        added_on_threads_per_second: And on several.
        copied_per_second: Rows of float32 copied from memory to memory, on one thread.
        written_per_second: Rows written to a file, as a shard stores them, and synced.
        reranked_copies_per_second: Queries a second of one thread that does nothing but copy the rows which one shard
            reranks for a query: no rerank on one thread is faster.
        reranked_rows: How many rows those are.
    """

    train_seconds: float
    added_per_second: float
    added_on_threads_per_second: float
    copied_per_second: float
    written_per_second: float
    reranked_copies_per_second: float = 0.0
    reranked_rows: int = 0


@dataclass(frozen=True)
class Space:
    """Memory and disk of one process; None where it does not tell.

    Attributes:
        process: The coordinator, or a shard.
        kind: Of memory: "anonymous", or "resident", which counts what is mapped of files too.
        empty: Bytes of memory before anything was loaded.
        full: With all records, at rest.
        records: That it holds.
        memory_per_record: Bytes above `empty`.
        disk_per_record: Bytes of all its files.
    """

    process: str
    kind: str
    empty: int | None
    full: int | None
    records: int
    memory_per_record: float | None
    disk_per_record: float | None


@dataclass(frozen=True)
class Recall:
    """Recall@k of the defaults, each k asked for itself: of the server, and of the same recipe in process."""

    k: int
    server: float | None
    alone: float | None


@dataclass(frozen=True)
class Rate:
    """Searches of one kind.

    Attributes:
        what: How they were asked.
        per_second: Queries answered.
        milliseconds: The 50th, 95th and 99th percentile of a call; in an open loop from when it was to be made.
        recall: Recall@10 of these very answers.
        ratios: Of `per_second` to those of FAISS in process at the same recall or better, by what they are.
        offered: Queries a second that came, in an open loop.
        late: The 99th percentile, in milliseconds, of how late the callers themselves were in an open loop.
        errors: What calls failed with, and how often.
        cpu: Microseconds of CPU time a query, by process.
    """

    what: str
    per_second: float
    milliseconds: tuple[float, float, float] | None = None
    recall: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    offered: float | None = None
    late: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    cpu: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One point of a curve: what is found, how fast."""

    nprobe: int
    rerank_factor: float
    exact: bool
    recall: float
    per_second: float
    default: bool = False


@dataclass(frozen=True)
class Target:
    """A recall that was asked for, what was found, and what the server took and promised for it."""

    asked: float
    recall: float | None
    promised: float
    nprobe: int
    rerank_factor: float
    per_second: float
    error: str = ""


@dataclass(frozen=True)
class Filtered:
    """Searches that only some of the records pass.

    Attributes:
        condition: The filter; empty for none.
        passing: The share of the records that meet it.
        recall: Recall@10 over min(10, passing); a hit counts when its exact score reaches the last one within 1e-3.
        per_second: In batches.
        nprobe: Lists probed; 0 where exact.
        exact: Whether every record that passes was compared.
        error: Why there is nothing to tell.
    """

    condition: str
    passing: float
    recall: float | None = None
    per_second: float = 0.0
    nprobe: int = 0
    exact: bool = False
    error: str = ""


@dataclass(frozen=True)
class Adding:
    """Latencies of one caller, in milliseconds: with nothing else going on, and while rows come in.

    Attributes:
        idle: The 50th, 95th and 99th percentile.
        adding: The same until all that came was applied.
        calls: How many those are.
        rows_per_second: That were upserted meanwhile.
    """

    idle: tuple[float, float, float] | None
    adding: tuple[float, float, float] | None
    calls: int
    rows_per_second: float


@dataclass(frozen=True)
class Figures:
    """All of it."""

    setting: Setting
    ingestion: Ingestion
    build: Build
    space: Sequence[Space]
    recall: Sequence[Recall]
    alone: Sequence[Rate]
    rates: Sequence[Rate]
    open_loop: Sequence[Rate]
    curve: Sequence[Point]
    alone_curve: Sequence[Point]
    targets: Sequence[Target]
    filters: Sequence[Filtered]
    adding: Adding
