"""The record store: the only truth. Everything that a shard holds is derived from it.

A row holds the current state of a record together with its latest `seq`, so the log is this table in the order of
`seq`: from 0 it yields each live record once, and tombstones. Three things make it safe to follow:

- A transaction locks the rows of the collections that it writes to, and takes its numbers by adding to them. So
  numbers are in commit order, without gaps, whoever else writes; it leaves a random mark beside its last one.
- `page` reads rows and the head in one snapshot. Rows move forward when they are written again, so a follower that
  pages on from the last `seq` that it saw misses nothing, and once a page comes back short, what it holds is the
  snapshot of that page, complete up to its head.
- A cursor whose mark is not found was given out by a history that this store does not share: it went back in time.

On SQLite one process at a time opens the store, one thread of it writes, any number read. On PostgreSQL any number of
processes do all of it.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from vitrail.rpc.errors import AlreadyExists, NotFound
from vitrail.rpc.slots import slot_of
from vitrail.server.database import Database, insert
from vitrail.server.schema import Schema, SchemaError
from vitrail.server.tables import catalog, collections, commits, layout, records
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.types_pb2 import Value

IDS_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to write; without a vector, an existing record keeps its own and its thumbnail."""

    id: str
    attributes: Mapping[str, Value]
    uri: str = ""
    vector: bytes | None = None
    content_hash: bytes = b""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class Write:
    """What one call writes to one collection. Of an id that comes twice, the last counts."""

    collection_uid: int
    upserts: Sequence[NewRecord] = ()
    deletes: Sequence[str] = ()
    deletes_as_of: int | None = None
    """The `seq` at which the ids were found: what was written after it is not deleted."""

    def __len__(self) -> int:
        return len(self.upserts) + len(self.deletes)


@dataclass(slots=True)
class Written:
    """What came of a write: the last `seq` it took (0: none), and what was left out, by position in `upserts`."""

    seq: int = 0
    deleted: int = 0
    missing: list[int] = field(default_factory=list)
    """Without a vector, and no record of that id to keep one."""
    misfits: dict[int, SchemaError] = field(default_factory=dict)
    catalog_changed: bool = False


class StoredRecord(NamedTuple):
    """A live record; `attributes` is a serialized Attributes, `vector` float16 or float32."""

    id: str
    seq: int
    updated_at: int
    uri: str
    attributes: bytes
    content_hash: bytes
    vector: bytes
    thumbnail: bytes


class LogRow(NamedTuple):
    """A row as followers get it."""

    id: str
    seq: int
    slot: int
    deleted: bool
    vector: bytes
    attributes: bytes


class Page(NamedTuple):
    """Rows of the log in the order of `seq`, and the head, from one snapshot."""

    head: Cursor
    rows: Sequence[LogRow]


class Heads(NamedTuple):
    """How far everything is: the catalog's own `seq`; of each collection by uid its live records and last `seq`."""

    catalog_seq: int
    collections: dict[int, tuple[int, int]]


class Store:
    """The store in one database. Methods block; those that write are called from one thread of a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_shared = database.is_shared

    def close(self) -> None:
        self._database.close()

    # The catalog.

    def read_catalog(self) -> tuple[int, list[Collection]]:
        """The catalog's own `seq`, and every collection."""
        with self._database.snapshot() as connection:
            seq = connection.execute(sa.select(catalog.c.seq)).scalar_one()
            rows = connection.execute(sa.select(collections.c.uid, collections.c.definition).order_by("uid"))
            return seq, [_collection(uid, definition) for uid, definition in rows]

    def wanted_shards(self) -> int:
        """How many shards are to serve; 0 where nobody said."""
        with self._database.transaction() as connection:
            return int(connection.execute(sa.select(layout.c.shards)).scalar_one())

    def want_shards(self, shards: int) -> None:
        """Have another number of shards serve."""
        with self._database.transaction() as connection:
            _bump_catalog(connection)
            connection.execute(layout.update().values(shards=shards))

    def create_collection(self, collection: Collection) -> Collection:
        """Create a collection and give it its uid.

        Raises:
            AlreadyExists: The name is taken.
        """
        with self._database.transaction() as connection:
            _bump_catalog(connection)  # first: whoever creates one at the same time waits here
            if connection.execute(sa.select(collections.c.uid).filter_by(name=collection.name)).first():
                raise AlreadyExists(f"there is a collection {collection.name!r} already")
            result = connection.execute(
                collections.insert().values(name=collection.name, definition=collection.SerializeToString())
            )
            (uid,) = result.inserted_primary_key or (0,)
            return _collection(uid, collection.SerializeToString())

    def update_collection(self, uid: int, change: Callable[[Collection], None]) -> Collection:
        """Change a collection's definition as the last commit left it; nothing is written where `change` raises.

        Raises:
            NotFound: It was deleted.
        """
        with self._database.transaction() as connection:
            _lock(connection, [uid])
            collection = _find(connection, uid)
            if collection is None:
                raise NotFound("the collection was deleted")
            change(collection)
            _define(connection, collection)
            return collection

    def delete_collection(self, uid: int) -> None:
        """Delete a collection with all of its records."""
        with self._database.transaction() as connection:
            connection.execute(collections.delete().filter_by(uid=uid))
            connection.execute(records.delete().filter_by(collection_uid=uid))
            connection.execute(commits.delete().filter_by(collection_uid=uid))
            _bump_catalog(connection)

    # Writing records.

    def write(self, writes: Sequence[Write]) -> list[Written | NotFound]:
        """Write for several callers in one transaction, since one commit is one fsync.

        Returns:
            One outcome a write, in order; NotFound where the collection is gone.
        """
        with self._database.transaction() as connection:
            _lock(connection, [write.collection_uid for write in writes])
            return [_write(connection, write) for write in writes]

    # Reading records.

    def get(
        self, uid: int, ids: Sequence[str], *, vectors: bool = True, thumbnails: bool = True
    ) -> dict[str, StoredRecord]:
        """The live records among some ids; what is not asked for is empty in them."""
        found: dict[str, StoredRecord] = {}
        with self._database.transaction() as connection:
            for part in _parts(ids):
                rows = connection.execute(_live(uid, vectors, thumbnails).where(records.c.id.in_(part)))
                found.update((row.id, StoredRecord(*row)) for row in rows)
        return found

    def list(
        self, uid: int, after: str, limit: int, *, vectors: bool = True, thumbnails: bool = True
    ) -> list[StoredRecord]:
        """Live records in the order of their ids, from the first one above `after`; the rest as in `get`."""
        query = _live(uid, vectors, thumbnails).where(records.c.id > after).order_by(records.c.id).limit(limit)
        with self._database.transaction() as connection:
            return [StoredRecord(*row) for row in connection.execute(query)]

    def heads(self) -> Heads:
        """How far everything is, at one moment."""
        query = sa.select(collections.c.uid, collections.c.records, collections.c.seq)
        with self._database.snapshot() as connection:
            catalog_seq = connection.execute(sa.select(catalog.c.seq)).scalar_one()
            return Heads(catalog_seq, {uid: (count, seq) for uid, count, seq in connection.execute(query)})

    # The log.

    def page(self, uid: int, slots: tuple[int, int], after: int, limit: int) -> Page | None:
        """The next rows of some slots, and the head; None where the collection is gone."""
        c = records.c
        query = (
            sa.select(c.id, c.seq, c.slot, c.deleted, c.vector, c.attributes)
            .where(c.collection_uid == uid, c.seq > after, c.slot >= slots[0], c.slot < slots[1])
            .order_by(c.seq)
            .limit(limit)
        )
        head = sa.select(collections.c.seq, collections.c.mark).filter_by(uid=uid)
        with self._database.snapshot() as connection:
            place = connection.execute(head).first()
            if place is None:
                return None
            rows = [LogRow(*row) for row in connection.execute(query)]
        return Page(Cursor(collection_uid=uid, seq=place.seq, mark=place.mark), rows)

    def knows(self, cursor: Cursor) -> bool:
        """Whether a cursor was given out by this store's own history."""
        if cursor.seq == 0:
            return True
        query = sa.select(commits.c.mark).filter_by(collection_uid=cursor.collection_uid, seq=cursor.seq)
        with self._database.transaction() as connection:
            return connection.execute(query).scalar() == cursor.mark


def _lock(connection: sa.Connection, uids: Sequence[int]) -> None:
    """Wait for those who write to these collections now; in one order everywhere, so that nobody waits in a circle."""
    query = sa.select(collections.c.uid).where(collections.c.uid.in_(uids)).order_by(collections.c.uid)
    connection.execute(query.with_for_update())


def _write(connection: sa.Connection, write: Write) -> Written | NotFound:
    uid = write.collection_uid
    collection = _find(connection, uid)
    if collection is None:
        return NotFound("the collection was deleted")
    written = Written()
    known = _known(connection, uid, [*(record.id for record in write.upserts), *write.deletes])
    upserts = _accepted(write.upserts, collection, known, written)
    deletes = [record_id for record_id in dict.fromkeys(write.deletes) if known.get(record_id)]
    if write.deletes_as_of is not None:
        changed = _changed(connection, uid, deletes, write.deletes_as_of)
        deletes = [record_id for record_id in deletes if record_id not in changed]
    written.deleted = len(deletes)
    if written.catalog_changed:
        _define(connection, collection)
    if not upserts and not deletes:
        return written
    added = sum(not known.get(record_id, False) for record_id in upserts) - len(deletes)
    mark = secrets.randbits(63)
    written.seq = connection.execute(
        collections.update()
        .filter_by(uid=uid)
        .values(seq=collections.c.seq + len(upserts) + len(deletes), mark=mark, records=collections.c.records + added)
        .returning(collections.c.seq)
    ).scalar_one()
    connection.execute(commits.insert().values(collection_uid=uid, seq=written.seq, mark=mark))
    _put(connection, uid, list(upserts.values()), deletes, first=written.seq - len(upserts) - len(deletes) + 1)
    return written


def _accepted(
    upserts: Sequence[NewRecord], collection: Collection, known: Mapping[str, bool], written: Written
) -> dict[str, NewRecord]:
    """What can be written, by id; the rest is noted in `written`, and the schema widened in `collection`."""
    schema = Schema(collection)
    accepted: dict[str, NewRecord] = {}
    for index, record in enumerate(upserts):
        keeps_own = known.get(record.id, False) or record.id in accepted
        if record.vector is None and not keeps_own:
            written.missing.append(index)
            continue
        try:
            schema.admit(record.attributes)
        except SchemaError as error:
            written.misfits[index] = error
            continue
        earlier = accepted.pop(record.id, None)
        accepted[record.id] = _onto(earlier, record) if earlier and record.vector is None else record
    written.catalog_changed = schema.changed
    return accepted


def _onto(earlier: NewRecord, later: NewRecord) -> NewRecord:
    """A change of attributes right behind the record itself, in one call."""
    return NewRecord(later.id, later.attributes, later.uri, earlier.vector, earlier.content_hash, earlier.thumbnail)


def _put(connection: sa.Connection, uid: int, upserts: Sequence[NewRecord], deletes: Sequence[str], first: int) -> None:
    now = time.time_ns() // 1000
    rows = [_row(uid, record, first + offset, now) for offset, record in enumerate(upserts)]
    whole = [row for row in rows if row["vector"] is not None]
    partial = [row for row in rows if row["vector"] is None]
    tombstones = [
        _row(uid, NewRecord(record_id, {}, vector=b""), first + len(upserts) + offset, now) | {"deleted": True}
        for offset, record_id in enumerate(deletes)
    ]
    if whole or tombstones:
        statement = insert(connection, records)
        replaced = {column.name: statement.excluded[column.name] for column in records.c if not column.primary_key}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["collection_uid", "id"], set_=replaced),
            [*whole, *tombstones],
        )
    if partial:
        changed = ("seq", "updated_at", "uri", "attributes")
        statement_of_some = (
            records.update()
            .where(records.c.collection_uid == uid, records.c.id == sa.bindparam("its_id"))
            .values({name: sa.bindparam(f"new_{name}") for name in changed})
        )
        connection.execute(
            statement_of_some,
            [{"its_id": row["id"], **{f"new_{name}": row[name] for name in changed}} for row in partial],
        )


def _row(uid: int, record: NewRecord, seq: int, now: int) -> dict[str, Any]:
    return {
        "collection_uid": uid,
        "id": record.id,
        "slot": slot_of(record.id),
        "seq": seq,
        "deleted": False,
        "updated_at": now,
        "uri": record.uri,
        "attributes": Schema.serialize(record.attributes),
        "content_hash": record.content_hash,
        "vector": record.vector,
        "thumbnail": record.thumbnail,
    }


def _known(connection: sa.Connection, uid: int, ids: Sequence[str]) -> dict[str, bool]:
    """Of some ids, those that have a row, and whether it is live."""
    known: dict[str, bool] = {}
    for part in _parts(ids):
        query = sa.select(records.c.id, records.c.deleted).where(
            records.c.collection_uid == uid, records.c.id.in_(part)
        )
        known.update((record_id, not deleted) for record_id, deleted in connection.execute(query))
    return known


def _changed(connection: sa.Connection, uid: int, ids: Sequence[str], after: int) -> set[str]:
    """Of some ids, those that were written after a `seq`."""
    changed: set[str] = set()
    for part in _parts(ids):
        query = sa.select(records.c.id).where(
            records.c.collection_uid == uid, records.c.id.in_(part), records.c.seq > after
        )
        changed.update(connection.execute(query).scalars())
    return changed


def _live(uid: int, vectors: bool, thumbnails: bool) -> "sa.Select[Any]":
    c, nothing = records.c, sa.literal(b"")
    content = (
        c.vector if vectors else nothing.label("vector"),
        c.thumbnail if thumbnails else nothing.label("thumbnail"),
    )
    return sa.select(c.id, c.seq, c.updated_at, c.uri, c.attributes, c.content_hash, *content).where(
        c.collection_uid == uid, c.deleted.is_(False)
    )


def _find(connection: sa.Connection, uid: int) -> Collection | None:
    row = connection.execute(sa.select(collections.c.definition).filter_by(uid=uid)).first()
    return None if row is None else _collection(uid, row.definition)


def _define(connection: sa.Connection, collection: Collection) -> None:
    connection.execute(
        collections.update().filter_by(uid=collection.uid).values(definition=collection.SerializeToString())
    )
    _bump_catalog(connection)


def _bump_catalog(connection: sa.Connection) -> None:
    connection.execute(catalog.update().values(seq=catalog.c.seq + 1))


def _collection(uid: int, definition: bytes) -> Collection:
    collection = Collection.FromString(definition)
    collection.uid = uid
    return collection


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_A_QUERY] for start in range(0, len(ids), IDS_A_QUERY))
