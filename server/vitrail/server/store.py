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

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from vitrail.rpc.errors import AlreadyExists, NotFound, Unavailable
from vitrail.server import versions
from vitrail.server.database import Database, in_parts
from vitrail.server.tables import PENDING, catalog, collections, commits, images, layout, names, records
from vitrail.server.versions import bump_catalog
from vitrail.server.writing import Write, Written, write_to_all
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Cursor

# Tombstones, or marks, that one transaction deletes: others wait for it.
PURGE_ROWS = 10_000


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
            version = versions.of(uid, found)
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
            return [write_to_all(connection, write, found.get(write.collection_uid, [])) for write in writes]

    # Reading records.

    def get(
        self, uid: int, ids: Sequence[str], *, vectors: bool = True, thumbnails: bool = True
    ) -> dict[str, StoredRecord]:
        """The live records among some ids; what is not asked for is empty in them."""
        found: dict[str, StoredRecord] = {}
        with self._database.transaction() as connection:
            for part in in_parts(ids):
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
            version = versions.of(uid, versions.lock_all(connection, [uid]).get(uid, []))
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
