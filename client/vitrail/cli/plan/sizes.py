"""Bytes and seconds of one partition: what `shard` makes of so many records, as its code has it."""

from dataclasses import dataclass

from vitrail.cli.plan import constants
from vitrail.client.models import Metric


@dataclass(frozen=True)
class Kind:
    """What records are like.

    Attributes:
        dimension: Of each vector.
        metric: How vectors compare.
        attributes: How many each record has.
        attributes_bytes: Their names and values, serialized.
    """

    dimension: int
    metric: Metric = "cosine"
    attributes: int = 0
    attributes_bytes: int = 0

    @property
    def vector_bytes(self) -> int:
        """Of a vector in a shard."""
        half = self.metric == "cosine" and self.dimension >= constants.HALF_PRECISION_FROM
        return (2 if half else 4) * self.dimension

    @property
    def given_bytes(self) -> int:
        """Of a record as a caller brings it, its vector in single precision."""
        return 4 * self.dimension + self.attributes_bytes

    @property
    def is_stored_apart(self) -> bool:
        """Whether PostgreSQL keeps that in another place than its row."""
        return self.given_bytes >= constants.APART_FROM

    @property
    def stored_bytes(self) -> float:
        """Of a record in PostgreSQL."""
        if self.is_stored_apart:
            return constants.APART_BYTES + constants.APART_FACTOR * self.given_bytes
        rows = constants.STORED_PAGE // (constants.STORED_ROW + self.given_bytes)
        return constants.STORED_PAGE / rows + constants.STORED_INDEXES

    @property
    def components(self) -> int:
        """Of a vector, that an index looks at."""
        if self.dimension < constants.PLAIN_BELOW:
            return self.dimension
        return min(constants.MAX_COMPONENTS, self.dimension)

    @property
    def code_bytes(self) -> int:
        """Of a vector's code: 4 bits for one component, or for two."""
        if self.dimension < constants.PLAIN_BELOW:
            return 4 * self.dimension
        per_part = 2 if self.components > constants.ONE_A_PART_UP_TO else 1
        return (self.components // per_part + 1) // 2

    @property
    def indexed_bytes(self) -> int:
        """Of a record in the trained index."""
        return self.code_bytes + constants.ID_BYTES

    @property
    def table_bytes(self) -> float:
        """Of a record's row on disk, its vector apart."""
        documents = constants.ENTRY_BYTES + constants.ID_TEXT_BYTES + self.attributes_bytes
        columns = self.attributes * constants.STRING_BYTES
        return documents + columns + 1 / 8


@dataclass(frozen=True)
class Partition:
    """One partition of so many live records, at rest and at its largest.

    Its largest is when a quarter of its rows are dead and another process builds it anew.
    """

    kind: Kind
    records: int

    @property
    def rows(self) -> float:
        """At most, the dead ones included."""
        return self.records / constants.LIVE_SHARE

    @property
    def memory(self) -> float:
        """Of the process at rest, after records have come in."""
        return constants.SHARD_BYTES + self.records * self._a_record

    @property
    def most_memory(self) -> float:
        """Of the process and of the one that builds for it."""
        waiting = max(constants.RECENT_LEAST, self.records * constants.RECENT_SHARE) * constants.RECENT_BYTES
        indexes = (self.rows + self.records) * constants.LIST_GROWTH * self.kind.indexed_bytes
        ids = self.records * (constants.MAP_BYTES + constants.SORTING_BYTES) + waiting
        return constants.SHARD_BYTES + constants.BUILDER_BYTES + indexes + ids + self._sample

    @property
    def vectors(self) -> int:
        """On disk, mapped into memory: what is compared exactly is read there."""
        return self.records * self.kind.vector_bytes

    @property
    def disk(self) -> float:
        return self.records * (self.kind.vector_bytes + self.kind.table_bytes + self.kind.indexed_bytes)

    @property
    def most_disk(self) -> float:
        """With dead rows, and beside them the same without."""
        return self.disk * (1 / constants.LIVE_SHARE + 1)

    @property
    def opening_seconds(self) -> float:
        """From its own files; vectors are verified later."""
        files = self.disk - self.vectors
        return constants.START_SECONDS + files / constants.OPENED_BYTES_A_SECOND

    @property
    def snapshot_seconds(self) -> float:
        """From a snapshot."""
        return self.opening_seconds + 8 * self.disk / constants.SNAPSHOT_BITS

    @property
    def following_seconds(self) -> float:
        """From the start of the log, until all is in a trained index."""
        kind, lists = self.kind, self.records**0.5
        trained = min(self.records, max(constants.ROWS_A_LIST * lists, constants.FEWEST_ROWS))
        transform = kind.dimension if kind.components < kind.dimension else 0
        added = self.records * kind.components * (transform + lists)
        training = trained * (kind.components * lists * constants.ROUNDS + transform * kind.dimension)
        row = constants.FOLLOWED_SECONDS + kind.given_bytes * constants.FOLLOWED_BYTE_SECONDS
        return self.records * row + (added + training) / constants.MULTIPLICATIONS

    @property
    def search_seconds(self) -> float:
        """CPU of one query."""
        grown = (self.records / constants.SEARCH_RECORDS) ** constants.SEARCH_POWER
        return constants.SHARD_SECONDS + constants.SEARCH_SECONDS * grown

    @property
    def _a_record(self) -> float:
        return constants.LIST_GROWTH * self.kind.indexed_bytes + constants.MAP_BYTES + 1 / 8

    @property
    def _sample(self) -> float:
        """What is trained on, in single precision: the vectors, and twice their components."""
        rows = max(constants.ROWS_A_LIST * self.records**0.5, constants.FEWEST_ROWS)
        return min(self.records, rows) * 4 * (self.kind.dimension + 2 * self.kind.components)
