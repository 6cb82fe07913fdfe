"""The record store: the only truth. Everything that a shard holds is derived from it.

A row holds the current state of a record together with its latest `seq`, so the log is this table in the order of
`seq`: from 0 it yields each live record once, and tombstones. Three things make it safe to follow:

- A transaction locks the names of the collections that it writes to, and counts on from their last numbers. So
  numbers are in commit order, whoever else writes; it leaves a random mark beside its last one. What is written to
  one version of a collection is written to all of them (see `versions`).
- `page` reads rows and the head in one snapshot. Rows move forward when they are written again, so a follower that
  pages on from the last `seq` that it saw misses nothing, and once a page comes back short, what it holds is the
  snapshot of that page, complete up to its head.
- A cursor whose mark is not found was given out by a history that this store does not share (it went back in time),
  or longer ago than it remembers.
- Tombstones are purged in the order of `seq`, and the collection's row says up to where. Who was not told of them by
  then may hold records that are gone, and must build anew.

On SQLite one process at a time opens the store, one thread of it writes, any number read. On PostgreSQL any number of
processes do all of it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from vitrail.rpc.errors import AlreadyExists, NotFound, Unavailable
from vitrail.rpc.slots import slot_of
from vitrail.server import versions
from vitrail.server.database import Database, insert
from vitrail.server.schema import Schema, SchemaError
from vitrail.server.tables import PENDING, catalog, collections, commits, images, layout, names, records
from vitrail.server.versions import Version, bump_catalog
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor
from vitrail.v1.types_pb2 import Value

IDS_A_QUERY = 500
# When to write again where another version serves: all coordinators know it by then.
AGAIN_SECONDS = 0.1
# Tombstones, or marks, that one transaction deletes: others wait for it.
PURGE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to write; without a vector, an existing record keeps its own and its thumbnail."""

    id: str
    attributes: Mapping[str, Value]
    uri: str = ""
    vector: bytes | None = None
    content_hash: bytes = b""
    thumbnail: bytes = b""
    others: Mapping[int, bytes] = field(default_factory=dict)
    """Its vectors in other versions of the collection, by their uids; pending in those that are not named."""
    image: bytes = b""
    """The encoded image, to be kept where the collection keeps them."""
    fills: int = 0
    """The `seq` of a pending record to give the vector to, and change nothing else; 0 for a record to write."""


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
    mark: int = 0
    """Beside `seq`."""
    deleted: int = 0
    missing: list[int] = field(default_factory=list)
    """Without a vector, and no record of that id to keep one."""
    outdated: list[int] = field(default_factory=list)
    """To be filled, but not pending at that `seq`, or of another image."""
    misfits: dict[int, SchemaError] = field(default_factory=dict)
    catalog_changed: bool = False


class StoredRecord(NamedTuple):
    """A live record; `attributes` is a serialized Attributes, `vector` float16 or float32."""

    id: str
    seq: int
    pending: bool
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
    """Rows of the log in the order of `seq`, and what the log is like, from one snapshot."""

    head: Cursor
    rows: Sequence[LogRow]
    purged: int
    """Every tombstone up to here is gone."""
    knows_place: bool
    """Whether the reader's place was given out by this store's own history."""


class Heads(NamedTuple):
    """How far everything is: the catalog's own `seq`; of each collection by uid its live records and last `seq`."""

    catalog_seq: int
    collections: dict[int, tuple[int, int]]
    marks: dict[int, int]
    """Beside each last `seq`."""


class Store:
    """The store in one database. Methods block; those that write are called from one thread of a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_shared = database.is_shared

    def close(self) -> None:
        self._database.close()

    # The catalog.

    def read_catalog(self) -> tuple[int, list[Collection]]:
        """The catalog's own `seq`, and every version of every collection."""
        with self._database.snapshot() as connection:
            seq = connection.execute(sa.select(catalog.c.seq)).scalar_one()
            return seq, [version.collection for version in versions.read(connection)]

    def wanted_shards(self) -> int:
        """How many shards are to serve; 0 where nobody said."""
        with self._database.transaction() as connection:
            return int(connection.execute(sa.select(layout.c.shards)).scalar_one())

    def want_shards(self, shards: int) -> None:
        """Have another number of shards serve."""
        with self._database.transaction() as connection:
            bump_catalog(connection)
            connection.execute(layout.update().values(shards=shards))

    def create_collection(self, collection: Collection) -> Collection:
        """Create a collection and give it its uid.

        Raises:
            AlreadyExists: The name is taken.
        """
        with self._database.transaction() as connection:
            bump_catalog(connection)  # first: whoever creates one at the same time waits here
            if connection.execute(sa.select(names).filter_by(name=collection.name)).first():
                raise AlreadyExists(f"there is a collection {collection.name!r} already")
            made = versions.insert(connection, collection, 1)
            connection.execute(names.insert().values(name=made.name, serves=made.uid, versions=1))
            return made

    def update_collection(self, uid: int, change: Callable[[Collection], None]) -> Collection:
        """Change a collection's definition as the last commit left it; nothing is written where `change` raises.

        Raises:
            NotFound: It was deleted.
        """
        with self._database.transaction() as connection:
            found = versions.lock_all(connection, [uid]).get(uid, [])
            version = _of(uid, found)
            if version is None:
                raise NotFound("the collection was deleted")
            change(version.collection)
            versions.define(connection, found, version)
            if not version.collection.keep_images:
                connection.execute(images.delete().filter_by(name=version.collection.name))
            return version.collection

    def delete_collection(self, uid: int) -> None:
        """Delete a collection, all versions of it, with all of their records."""
        with self._database.transaction() as connection:
            found = versions.lock_all(connection, [uid]).get(uid)
            if found:
                versions.drop_name(connection, found)
                bump_catalog(connection)

    def create_version(self, collection: Collection) -> Collection:
        """See `versions.create`."""
        with self._database.transaction() as connection:
            return versions.create(connection, collection)

    def activate_version(self, name: str, number: int) -> Collection:
        """See `versions.activate`."""
        with self._database.transaction() as connection:
            return versions.activate(connection, name, number)

    def delete_version(self, name: str, number: int) -> None:
        """See `versions.delete`."""
        with self._database.transaction() as connection:
            versions.delete(connection, name, number)

    def pending(self, uids: Iterable[int]) -> dict[int, int]:
        """How many vectors of some versions are still to be made, by uid."""
        with self._database.snapshot() as connection:
            return {uid: versions.pending(connection, uid) for uid in uids}

    # Writing records.

    def write(self, writes: Sequence[Write]) -> list[Written | NotFound | Unavailable]:
        """Write for several callers in one transaction, since one commit is one fsync.

        Returns:
            One outcome a write, in order. NotFound where the collection is gone, Unavailable where another version
            of it serves by now, whose vectors the write does not bring: it is to be made again for that one.
        """
        with self._database.transaction() as connection:
            found = versions.lock_all(connection, [write.collection_uid for write in writes])
            return [_write(connection, write, found.get(write.collection_uid, [])) for write in writes]

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
        self,
        uid: int,
        after: str,
        limit: int,
        *,
        vectors: bool = True,
        thumbnails: bool = True,
        pending: bool = False,
    ) -> list[StoredRecord]:
        """Live records, or the pending ones, by id, from the first one above `after`; the rest as in `get`."""
        query = _live(uid, vectors, thumbnails).where(records.c.id > after).order_by(records.c.id).limit(limit)
        if pending:
            query = query.where(PENDING)
        with self._database.transaction() as connection:
            return [StoredRecord(*row) for row in connection.execute(query)]

    def image_sizes(self, name: str, ids: Sequence[str]) -> dict[str, int]:
        """The bytes of the kept images of some records."""
        query = sa.select(images.c.id, sa.func.length(images.c.data).label("size")).where(
            images.c.name == name, images.c.id.in_(ids)
        )
        with self._database.transaction() as connection:
            return {row.id: row.size for row in connection.execute(query)}

    def images(self, name: str, ids: Sequence[str]) -> dict[str, bytes]:
        """The kept images of some records."""
        query = sa.select(images.c.id, images.c.data).where(images.c.name == name, images.c.id.in_(ids))
        with self._database.transaction() as connection:
            return {row.id: row.data for row in connection.execute(query)}

    def heads(self) -> Heads:
        """How far everything is, at one moment."""
        c = collections.c
        with self._database.snapshot() as connection:
            catalog_seq = connection.execute(sa.select(catalog.c.seq)).scalar_one()
            rows = connection.execute(sa.select(c.uid, c.records, c.seq, c.mark)).all()
        counts = {row.uid: (row.records, row.seq) for row in rows}
        return Heads(catalog_seq, counts, {row.uid: row.mark for row in rows})

    # The log.

    def page(
        self, uid: int, slots: tuple[int, int], after: int, limit: int, place: Cursor | None = None
    ) -> Page | None:
        """The next rows of some slots, and the head; None where the collection is gone.

        Args:
            uid: Of the collection.
            slots: From the first up to and without the second.
            after: Rows after this `seq`.
            limit: So many at most.
            place: A head that the reader was given before.
        """
        c = records.c
        query = (
            sa.select(c.id, c.seq, c.slot, c.deleted, c.vector, c.attributes)
            .where(c.collection_uid == uid, c.seq > after, c.slot >= slots[0], c.slot < slots[1])
            .order_by(c.seq)
            .limit(limit)
        )
        state = sa.select(collections.c.seq, collections.c.mark, collections.c.purged).filter_by(uid=uid)
        with self._database.snapshot() as connection:
            found = connection.execute(state).first()
            if found is None:
                return None
            rows = [_log_row(LogRow(*row)) for row in connection.execute(query)]
            knows_place = place is None or _knows(connection, place)
        head = Cursor(collection_uid=uid, seq=found.seq, mark=found.mark)
        return Page(head, rows, found.purged, knows_place)

    def knows(self, cursor: Cursor) -> bool:
        """Whether a cursor was given out by this store's own history, and not too long ago."""
        with self._database.transaction() as connection:
            return _knows(connection, cursor)

    def knows_write(self, uid: int, seq: int, mark: int) -> bool:
        """Whether a write that returned these is of this store's own history, to any version of a collection."""
        given = collections.alias()
        versions_of_it = sa.select(collections.c.uid).join(given, given.c.name == collections.c.name)
        query = sa.select(commits.c.mark).where(
            commits.c.collection_uid.in_(versions_of_it.where(given.c.uid == uid)),
            commits.c.seq == seq,
            commits.c.mark == mark,
        )
        with self._database.transaction() as connection:
            return connection.execute(query).first() is not None

    # Deleting for good.

    def end_at(self, uid: int, moment: int) -> int:
        """The `seq` at which a collection's log ended at a moment, in microseconds since 1970, as far as is known."""
        c = commits.c
        later = sa.select(c.seq).where(c.collection_uid == uid, c.committed_at >= moment).order_by(c.seq).limit(1)
        with self._database.transaction() as connection:
            first = connection.execute(later).scalar()
            ended = sa.select(sa.func.max(c.seq)).where(c.collection_uid == uid)
            return connection.execute(ended if first is None else ended.where(c.seq < first)).scalar() or 0

    def purge(self, uid: int, up_to: int) -> bool:
        """Delete tombstones up to a `seq`, some at a time. Returns whether there are more."""
        c = records.c
        tombstones = sa.and_(c.collection_uid == uid, c.deleted)
        with self._database.transaction() as connection:
            version = _of(uid, versions.lock_all(connection, [uid]).get(uid, []))
            if version is None:
                return False
            up_to = min(up_to, version.seq)
            if connection.execute(sa.select(collections.c.purged).filter_by(uid=uid)).scalar_one() >= up_to:
                return False
            numbers = sa.select(c.seq).where(tombstones, c.seq <= up_to).order_by(c.seq)
            last = connection.execute(numbers.offset(PURGE_ROWS - 1).limit(1)).scalar()
            reached = up_to if last is None else last
            connection.execute(records.delete().where(tombstones, c.seq <= reached))
            connection.execute(collections.update().filter_by(uid=uid).values(purged=reached))
            return reached < up_to

    def clean(self, uids: Iterable[int]) -> dict[int, int]:
        """Up to where nothing is left of what was replaced or deleted, in all of the database's files."""
        query = sa.select(collections.c.uid, collections.c.clean).where(collections.c.uid.in_(list(uids)))
        with self._database.transaction() as connection:
            return {row.uid: row.clean for row in connection.execute(query)}

    def rewrite(self) -> None:
        """Write all files of the database anew, without what was replaced, deleted or purged; others wait meanwhile.

        Raises:
            Unavailable: Something is left, since others read it now; or there is no room.
        """
        before = self.heads()
        self._database.rewrite()
        with self._database.transaction() as connection:
            versions.lock_all(connection, list(before.collections))
            for uid, (_, seq) in before.collections.items():
                connection.execute(collections.update().filter_by(uid=uid).values(clean=seq))

    def forget_marks(self, uid: int, before: int) -> bool:
        """Delete the marks of places before a `seq`, some at a time. Returns whether there are more."""
        c = commits.c
        numbers = sa.select(c.seq).where(c.collection_uid == uid, c.seq < before).order_by(c.seq)
        with self._database.transaction() as connection:
            last = connection.execute(numbers.offset(PURGE_ROWS - 1).limit(1)).scalar()
            reached = before - 1 if last is None else last
            connection.execute(commits.delete().where(c.collection_uid == uid, c.seq <= reached))
            return last is not None


def _knows(connection: sa.Connection, cursor: Cursor) -> bool:
    if cursor.seq == 0:
        return True
    query = sa.select(commits.c.mark).filter_by(collection_uid=cursor.collection_uid, seq=cursor.seq)
    return bool(connection.execute(query).scalar() == cursor.mark)


def _write(connection: sa.Connection, write: Write, found: Sequence[Version]) -> Written | NotFound | Unavailable:
    """Write to all versions of a name."""
    target = _of(write.collection_uid, found)
    if target is None:
        return NotFound("the collection was deleted")
    if not _brings_what_serves(write, found):
        return Unavailable("another version of the collection serves now", retry_after=AGAIN_SECONDS)
    written = Written()
    known = _known(connection, target.uid, [*(record.id for record in write.upserts), *write.deletes])
    upserts = _accepted(write.upserts, target.collection, known, written)
    deletes = [record_id for record_id in dict.fromkeys(write.deletes) if known.get(record_id)]
    if write.deletes_as_of is not None:
        changed = _changed(connection, target.uid, deletes, write.deletes_as_of)
        deletes = [record_id for record_id in deletes if record_id not in changed]
    written.deleted = len(deletes)
    if written.catalog_changed:
        versions.define(connection, found, target)
    if upserts or deletes:
        # All versions have the same live records: what was found in one is true of the others.
        added = sum(not known.get(record_id, False) for record_id in upserts) - len(deletes)
        first = versions.take_numbers(connection, found, found, len(upserts) + len(deletes), added)
        for version in found:
            _put(connection, version.uid, [_in(version, target, each) for each in upserts.values()], deletes, first)
        if target.collection.keep_images:
            _put_images(connection, target.collection.name, upserts.values(), deletes)
        written.seq, written.mark = target.seq, target.mark
    _fill(connection, write.upserts, target, found, written)
    return written


def _of(uid: int, found: Sequence[Version]) -> Version | None:
    return next((version for version in found if version.uid == uid), None)


def _brings_what_serves(write: Write, found: Sequence[Version]) -> bool:
    """Whether new vectors are those of the version that serves, in which none is ever pending."""
    serving = next(version.uid for version in found if version.serves)
    return serving == write.collection_uid or all(
        record.vector is None or record.fills or serving in record.others for record in write.upserts
    )


def _in(version: Version, target: Version, record: NewRecord) -> NewRecord:
    """A record as it is written to one version: what the others have of it is not the target's vector."""
    if version is target or record.vector is None:
        return record
    return replace(record, vector=record.others.get(version.uid, b""))


def _fill(
    connection: sa.Connection, given: Sequence[NewRecord], target: Version, found: Sequence[Version], written: Written
) -> None:
    """Give pending records their vectors, in one version, and change nothing else of them."""
    fills = {index: record for index, record in enumerate(given) if record.fills}
    if not fills:
        return
    waiting = _pending(connection, target.uid, [record.id for record in fills.values()])
    good: dict[str, NewRecord] = {}
    for index, record in fills.items():
        seq, content_hash = waiting.get(record.id, (0, b""))
        if seq == record.fills and (not content_hash or record.content_hash in (b"", content_hash)):
            good[record.id] = record
        else:
            written.outdated.append(index)
    if not good:
        return
    first = versions.take_numbers(connection, found, [target], len(good))
    written.seq, written.mark = target.seq, target.mark
    statement = (
        records.update()
        .where(records.c.collection_uid == target.uid, records.c.id == sa.bindparam("its_id"))
        .values(
            seq=sa.bindparam("new_seq"),
            vector=sa.bindparam("new_vector"),
            content_hash=sa.bindparam("new_content_hash"),
        )
    )
    connection.execute(
        statement,
        [
            {
                "its_id": record.id,
                "new_seq": first + offset,
                "new_vector": record.vector,
                "new_content_hash": record.content_hash or waiting[record.id][1],
            }
            for offset, record in enumerate(good.values())
        ],
    )


def _put_images(connection: sa.Connection, name: str, upserts: Iterable[NewRecord], deletes: Sequence[str]) -> None:
    """Keep the images of what was written, and none of what was deleted or is of no image now."""
    kept = [{"name": name, "id": record.id, "data": record.image} for record in upserts if record.image]
    gone = [*deletes, *(record.id for record in upserts if record.vector is not None and not record.image)]
    for part in _parts(gone):
        connection.execute(images.delete().where(images.c.name == name, images.c.id.in_(part)))
    if kept:
        statement = insert(connection, images)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["name", "id"], set_={"data": statement.excluded["data"]}),
            kept,
        )


def _accepted(
    upserts: Sequence[NewRecord], collection: Collection, known: Mapping[str, bool], written: Written
) -> dict[str, NewRecord]:
    """What can be written, by id; the rest is noted in `written`, and the schema widened in `collection`."""
    schema = Schema(collection)
    accepted: dict[str, NewRecord] = {}
    for index, record in enumerate(upserts):
        if record.fills:
            continue
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
    return replace(earlier, attributes=later.attributes, uri=later.uri)


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


def _pending(connection: sa.Connection, uid: int, ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """Of some ids, those that are pending, with their `seq` and content hash."""
    found: dict[str, tuple[int, bytes]] = {}
    for part in _parts(ids):
        query = sa.select(records.c.id, records.c.seq, records.c.content_hash).where(
            records.c.collection_uid == uid, records.c.id.in_(part), PENDING
        )
        found.update((row.id, (row.seq, row.content_hash)) for row in connection.execute(query))
    return found


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
    is_pending = (sa.func.length(c.vector) == 0).label("pending")
    return sa.select(c.id, c.seq, is_pending, c.updated_at, c.uri, c.attributes, c.content_hash, *content).where(
        c.collection_uid == uid, c.deleted.is_(False)
    )


def _log_row(row: LogRow) -> LogRow:
    """A pending record is none to those who search: to them it is deleted until it has its vector."""
    return row if row.vector or row.deleted else row._replace(deleted=True, attributes=b"")


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_A_QUERY] for start in range(0, len(ids), IDS_A_QUERY))
