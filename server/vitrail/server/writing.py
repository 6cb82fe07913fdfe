"""Writing records: what one call writes goes to all versions of a collection, in a transaction that holds its name."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from vitrail.rpc.errors import NotFound, Unavailable
from vitrail.rpc.slots import slot_of
from vitrail.server import versions
from vitrail.server.database import in_parts, insert
from vitrail.server.schema import Schema, SchemaError
from vitrail.server.tables import PENDING, images, records
from vitrail.server.versions import Version
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.types_pb2 import Value

# When to write again where another version serves: all coordinators know it by then.
AGAIN_SECONDS = 0.1


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


def write_to_all(connection: sa.Connection, write: Write, found: Sequence[Version]) -> Written | NotFound | Unavailable:
    """Write to all versions of a name, which the transaction has locked.

    Args:
        connection: In the transaction.
        write: What to write.
        found: All versions of the name; none where the collection is gone.

    Returns:
        What came of it, or why nothing was written.
    """
    target = versions.of(write.collection_uid, found)
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
    for part in in_parts(gone):
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
    for part in in_parts(ids):
        query = sa.select(records.c.id, records.c.deleted).where(
            records.c.collection_uid == uid, records.c.id.in_(part)
        )
        known.update((record_id, not deleted) for record_id, deleted in connection.execute(query))
    return known


def _pending(connection: sa.Connection, uid: int, ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """Of some ids, those that are pending, with their `seq` and content hash."""
    found: dict[str, tuple[int, bytes]] = {}
    for part in in_parts(ids):
        query = sa.select(records.c.id, records.c.seq, records.c.content_hash).where(
            records.c.collection_uid == uid, records.c.id.in_(part), PENDING
        )
        found.update((row.id, (row.seq, row.content_hash)) for row in connection.execute(query))
    return found


def _changed(connection: sa.Connection, uid: int, ids: Sequence[str], after: int) -> set[str]:
    """Of some ids, those that were written after a `seq`."""
    changed: set[str] = set()
    for part in in_parts(ids):
        query = sa.select(records.c.id).where(
            records.c.collection_uid == uid, records.c.id.in_(part), records.c.seq > after
        )
        changed.update(connection.execute(query).scalars())
    return changed
