"""Versions of a collection: what bears one name, holds the same records, and differs in the space of their vectors.

Each is a collection of its own, with its own uid, log and partitions; one of them serves, which is to say that the
name alone means it. Whoever writes to any of them, or changes which there are, locks the row of their name first and
reads the versions after that. So a write knows all versions that there are when it commits, whatever the catalog said
when the call began.

Versions count in one series: a write has the same `seq` in all of them, so that a caller who waits for it may be
answered by another version than the one that was written to. Only what fills one version is a gap in the others.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from vitrail.rpc.errors import FailedPrecondition, NotFound
from vitrail.server.tables import PENDING, catalog, collections, commits, images, names, records
from vitrail.v1.collection_pb2 import Collection


@dataclass(slots=True)
class Version:
    """A version as the transaction that holds its name has found it, and leaves it."""

    collection: Collection
    seq: int
    mark: int = 0
    """Beside `seq`, where this transaction took it."""

    @property
    def uid(self) -> int:
        return self.collection.uid

    @property
    def serves(self) -> bool:
        return self.collection.serves


def read(connection: sa.Connection, condition: "sa.ColumnElement[bool] | None" = None) -> list[Version]:
    """The versions of all names, or of some, by uid."""
    c = collections.c
    query = sa.select(c.uid, c.name, c.version, c.definition, c.seq, names.c.serves).join_from(
        collections, names, c.name == names.c.name
    )
    rows = connection.execute((query if condition is None else query.where(condition)).order_by(c.uid))
    return [Version(_collection(row), row.seq) for row in rows]


def lock_all(connection: sa.Connection, uids: Sequence[int]) -> dict[int, list[Version]]:
    """Wait for those who write to the names of some collections now.

    Returns:
        By uid, where the collection is still there, all versions of its name, oldest first.
    """
    given = collections.alias()
    by_name: dict[str, list[Version]] = {}
    for version in _lock(connection, names.c.name.in_(sa.select(given.c.name).where(given.c.uid.in_(uids)))):
        by_name.setdefault(version.collection.name, []).append(version)
    return {version.uid: versions for versions in by_name.values() for version in versions}


def lock(connection: sa.Connection, name: str) -> list[Version]:
    """Wait for those who write to a name now; its versions, oldest first.

    Raises:
        NotFound: There is no such name.
    """
    versions = _lock(connection, names.c.name == name)
    if not versions:
        raise NotFound(f"there is no collection {name!r}", field="name")
    return versions


def _lock(connection: sa.Connection, condition: "sa.ColumnElement[bool]") -> list[Version]:
    # In one order everywhere, so that nobody waits in a circle.
    connection.execute(sa.select(names.c.name).where(condition).order_by(names.c.name).with_for_update())
    return read(connection, condition)  # a statement of its own: it sees what was committed while the first one waited


def take_numbers(
    connection: sa.Connection, versions: Sequence[Version], of: Sequence[Version], count: int, added: int = 0
) -> int:
    """Give some versions of a name the next numbers of its series, and `added` records; returns the first number."""
    first = max(version.seq for version in versions) + 1
    seq, mark = first + count - 1, secrets.randbits(63)
    connection.execute(
        collections.update()
        .where(collections.c.uid.in_([each.uid for each in of]))
        .values(seq=seq, mark=mark, records=collections.c.records + added)
    )
    place = {"seq": seq, "mark": mark, "committed_at": time.time_ns() // 1000}
    connection.execute(commits.insert(), [{"collection_uid": each.uid, **place} for each in of])
    for each in of:
        each.seq, each.mark = seq, mark
    return first


def create(connection: sa.Connection, wanted: Collection) -> Collection:
    """Make another version of a name, with the records of the one that serves, all of them pending.

    They are copied in this one transaction, so that nothing is written in between: a million records of 2,560 bytes
    took 7 s on SQLite and 14 s on PostgreSQL, in which searches go on and writes to the name wait (on SQLite all).

    Raises:
        NotFound: There is no such name.
    """
    versions = lock(connection, wanted.name)
    serving = next(version for version in versions if version.serves)
    _share(serving.collection, wanted)
    number = connection.execute(
        names.update().filter_by(name=wanted.name).values(versions=names.c.versions + 1).returning(names.c.versions)
    ).scalar_one()
    new = Version(insert(connection, wanted, number), 0)
    first = max(version.seq for version in versions) + 1
    c = records.c
    copied: dict[Any, Any] = {column: column for column in c} | {
        c.collection_uid: sa.literal(new.uid),
        c.seq: first - 1 + sa.func.row_number().over(order_by=c.seq),
        c.vector: sa.literal(b"", sa.LargeBinary),
    }
    live = sa.select(*copied.values()).where(c.collection_uid == serving.uid, c.deleted.is_(False))
    copying = records.insert().from_select(list(copied), live).execution_options(preserve_rowcount=True)
    count = connection.execute(copying).rowcount
    if count:
        take_numbers(connection, versions, [new], count, added=count)
    bump_catalog(connection)
    return new.collection


def activate(connection: sa.Connection, name: str, number: int) -> Collection:
    """Have a name mean another version.

    Raises:
        NotFound: There is no such version.
        FailedPrecondition: Vectors of it are pending.
    """
    version = _find(lock(connection, name), name, number)
    if waiting := pending(connection, version.uid):
        raise FailedPrecondition(f"{waiting:,} vectors of version {number} are pending", field="version")
    connection.execute(names.update().filter_by(name=name).values(serves=version.uid))
    bump_catalog(connection)
    version.collection.serves = True
    return version.collection


def delete(connection: sa.Connection, name: str, number: int) -> None:
    """Delete one version of a name with all of its records.

    Raises:
        NotFound: There is no such version.
        FailedPrecondition: It serves.
    """
    version = _find(lock(connection, name), name, number)
    if version.serves:
        raise FailedPrecondition(f"version {number} serves", field="version")
    drop(connection, [version])
    bump_catalog(connection)


def drop(connection: sa.Connection, versions: Sequence[Version]) -> None:
    """Delete versions with all of their records."""
    uids = [version.uid for version in versions]
    connection.execute(collections.delete().where(collections.c.uid.in_(uids)))
    connection.execute(records.delete().where(records.c.collection_uid.in_(uids)))
    connection.execute(commits.delete().where(commits.c.collection_uid.in_(uids)))
    connection.execute(collections.update().values(clean=0))  # their records lie among those of the others


def drop_name(connection: sa.Connection, versions: Sequence[Version]) -> None:
    """Delete all versions of a name, and the name."""
    drop(connection, versions)
    name = versions[0].collection.name
    connection.execute(images.delete().filter_by(name=name))
    connection.execute(names.delete().filter_by(name=name))


def pending(connection: sa.Connection, uid: int) -> int:
    """How many vectors of a version are still to be made."""
    query = sa.select(sa.func.count()).select_from(records).where(records.c.collection_uid == uid, PENDING)
    return int(connection.execute(query).scalar_one())


def insert(connection: sa.Connection, collection: Collection, number: int) -> Collection:
    """Add a collection as a version of its name, which has its row already; gives it its uid."""
    made = Collection()
    made.CopyFrom(collection)
    made.version, made.serves = number, number == 1
    values = {"name": made.name, "version": number, "definition": made.SerializeToString()}
    result = connection.execute(collections.insert().values(values))
    (made.uid,) = result.inserted_primary_key or (0,)
    return made


def define(connection: sa.Connection, versions: Sequence[Version], changed: Version) -> None:
    """Keep the changed definition of one version, and in the others what all have in common."""
    for version in versions:
        _share(changed.collection, version.collection)
        definition = version.collection.SerializeToString()
        connection.execute(collections.update().filter_by(uid=version.uid).values(definition=definition))
    bump_catalog(connection)


def bump_catalog(connection: sa.Connection) -> None:
    connection.execute(catalog.update().values(seq=catalog.c.seq + 1))


def of(uid: int, versions: Sequence[Version]) -> Version | None:
    """The version with a uid, if it is among these."""
    return next((version for version in versions if version.uid == uid), None)


def _find(versions: Sequence[Version], name: str, number: int) -> Version:
    for version in versions:
        if version.collection.version == number:
            return version
    raise NotFound(f"there is no version {number} of {name!r}", field="version")


def _share(source: Collection, target: Collection) -> None:
    """Give a version what all of a name have in common."""
    if source is not target:
        target.ClearField("attributes")
        target.attributes.MergeFrom(source.attributes)
        target.keep_images = source.keep_images


def _collection(row: Any) -> Collection:
    collection = Collection.FromString(row.definition)
    collection.uid, collection.version = row.uid, row.version
    collection.serves = row.uid == row.serves
    return collection
