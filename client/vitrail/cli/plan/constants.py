"""What plans are made of, each figure with its origin. Bytes and seconds, on two cores of an Intel Xeon.

The first part is read off the code, which tests/cli/test_plan.py compares; the client imports none of it, since it
must run without faiss and SQL. The second part was measured.
"""

# Of the code.

SLOTS = 1024
"""rpc/slots.py: shards own whole slots, so there are no more shards than slots."""
MOST_ROWS = 1 << 32
"""Rows that a partition can number: 32 bits in shard/documents.py (`IdMap`) and shard/columns.py (`ROWS`)."""
LIVE_SHARE = 0.75
"""Of all rows, at least, when a compaction begins: shard/wanted.py, COMPACT_SHARE."""
MIN_DIMENSION, MAX_DIMENSION, MOST_ATTRIBUTES_BYTES = 2, 4096, 65_536
"""server/validate.py."""
HALF_PRECISION_FROM = 64
"""Dimensions of cosine vectors that are kept in half precision: shard/partition.py."""
PLAIN_BELOW, ONE_A_PART_UP_TO, MAX_COMPONENTS = 16, 64, 256
"""shard/index.py: the code of a vector, which `choose_recipe` there makes of them."""
ID_BYTES = 8
"""Beside each code: shard/index.py."""
ROWS_A_LIST, FEWEST_ROWS = 64, 16_384
"""That are trained on: shard/index.py, POINTS_WORTH_IT and SMALLEST_SAMPLE."""
ENTRY_BYTES = 32
"""Of a row in `entries`: shard/documents.py, ENTRY."""
STRING_BYTES = 36
"""Of a string in a column, the largest kind: shard/columns.py, TEXT_PARTS; longer ones have more on the heap."""
MAP_BYTES = 12
"""Of an id in RAM: shard/documents.py, `IdMap`."""
RECENT_SHARE, RECENT_LEAST = 1 / 8, 65_536
"""Ids that wait in its dictionary, at most, before it sorts them in: the same."""

# Measured.

SHARD_BYTES = 172_000_000
"""Anonymous memory of a shard at work that holds nothing: docs/growth.md, (378 MB - 250,000 x 135 bytes) / 2."""
LIST_GROWTH = 1.7
"""Memory that lists take while they grow, to what is in them: docs/growth.md, (135 - MAP_BYTES) / 72 bytes."""
RECENT_BYTES = 116
"""Of an id in that dictionary: sys.getsizeof of 100,000 entries of CPython 3.11, their numbers included."""
SORTING_BYTES = 49
"""That an id takes for a moment while they are sorted in, or read: tracemalloc of 800,000, 46 and 49."""
BUILDER_BYTES = 137_000_000
"""Anonymous memory of the process that builds, before it has begun: /proc/self/smaps_rollup."""
OPENED_BYTES_A_SECOND = 63e6 / 0.091
"""Files that are not vectors, read from a cold disk, verified, opened: docs/growth.md, 63 MB in 91 ms."""
START_SECONDS = 1.8
"""Until a shard that is started again serves: docs/faults.md, the shard without a replica."""
FOLLOWED_SECONDS, FOLLOWED_BYTE_SECONDS = 26e-6, 14e-9
"""That a row of the log takes one shard, and each of its bytes, apart from adding it to an index: 8,000 rows/s of 1,280
dimensions (docs/kubernetes.md, `python -m tests.bench.following`), 14,300 rows/s of 512 (docs/plan.md)."""
MULTIPLICATIONS = 56_203 * 1280 * 256 + 56_203 * 1000 * 256
"""A second, of adding to an index: docs/bench-1000000.txt, 56,203 rows/s through PCA of 1,280 to 256, 1,000 lists."""
ROUNDS = 10
"""Of k-means over those rows: faiss's own choice for lists."""
SNAPSHOT_BITS = 1e9
"""A second: assumed, not measured."""
SHARD_SECONDS, SEARCH_SECONDS, SEARCH_RECORDS, SEARCH_POWER = 162e-6, 278e-6, 500_000, 0.74
"""CPU that a query costs a shard, apart from and in its index, and how that grows with records. 64 callers:
docs/bench-50000.txt 192 us with 25,000 records in a shard, docs/bench-1000000.txt 440 us with 500,000; the power is
that between 131 us at 50,000 and 1,195 us at 1,000,000 in docs/index.md. Beyond a million it was not measured."""
COORDINATOR_SECONDS, SHARDS_SHARE = 434e-6, 0.26
"""CPU that a query costs the coordinator of two shards: docs/bench-1000000.txt, 64 callers; and how much of it goes to
calls to shards, asking and merging: docs/wire.md, 10% and 16%. More than three shards were not measured."""
PHOTO_SECONDS = 2 / 158
"""CPU that it costs more to embed a photo: docs/bench-embed.md, 158 a second on two cores."""
BUSY = 0.7
"""Of a core: as the chart's autoscaling has it, coordinator.autoscaling.cpu."""
RERANKED = 160
"""Rows that are compared exactly for a query in a shard of 500,000: docs/bench-1000000.txt."""
PAGE = 4096
"""Bytes that are read at once."""
ID_TEXT_BYTES = 24
"""Of an id: assumed."""
STORED_PAGE, STORED_ROW, STORED_INDEXES = 8168, 104, 105
"""Room in a page of PostgreSQL, which holds whole rows; what a record takes there besides its vector and attributes;
and in indexes."""
APART_FROM, APART_BYTES, APART_FACTOR = 1930, 100, 1.4
"""Where those two are so many bytes, PostgreSQL keeps them apart, in pieces of which few fit into a page. Both by
`python -m tests.bench.plan --store`: docs/plan.md."""
