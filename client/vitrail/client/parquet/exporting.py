"""A collection into a file, page by page."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vitrail.client.calls import GET_COLLECTION, LIST_RECORDS, STATS, Operation, send
from vitrail.client.models import ExportReport
from vitrail.client.parquet.columns import columns_of, schema_of
from vitrail.client.progress import bar
from vitrail.rpc.errors import FailedPrecondition, InvalidArgument
from vitrail.v1.collection_pb2 import Collection, GetCollectionRequest, GetCollectionStatsRequest
from vitrail.v1.record_pb2 import ListRecordsRequest

PAGE = 200
# What a row group is filled up to: enough for readers to skip and to compress, little enough to hold.
GROUP_BYTES = 32 * 1024 * 1024
GROUP_ROWS = 50_000


def export(name: str, path: Path, progress: bool) -> Operation[ExportReport]:
    """Write all records of a collection to a file, which appears under its name when it is complete.

    Raises:
        FailedPrecondition: The schema grew meanwhile, or the name now stands for another collection.
        OSError: The file cannot be written.
    """
    started = time.monotonic()
    collection: Collection = (yield from send(GET_COLLECTION, GetCollectionRequest(name=name))).collection
    total = (yield from send(STATS, GetCollectionStatsRequest(name=name))).records if progress else 0
    done = 0
    with _writing(path, collection) as groups, bar("exporting", total, progress) as show:
        token, more = "", True
        while more:
            request = ListRecordsRequest(
                collection=name, page_size=PAGE, page_token=token, include_vectors=True, include_thumbnails=True
            )
            page = yield from send(LIST_RECORDS, request)
            groups.add(columns_of(page.records, collection, groups.schema))
            done += len(page.records)
            show(done)
            token = page.next_page_token
            more = bool(token)
        now = (yield from send(GET_COLLECTION, GetCollectionRequest(name=name))).collection
        if now.uid != collection.uid:
            raise FailedPrecondition(f"{name!r} became another collection meanwhile: export it again")
    return ExportReport(done, path.stat().st_size, time.monotonic() - started)


class Groups:
    """Collects pages and writes them as row groups of bounded size."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.schema = schema
        self._writer = writer
        self._pages: list[pa.RecordBatch] = []

    def add(self, page: pa.RecordBatch) -> None:
        self._pages.append(page)
        rows = sum(page.num_rows for page in self._pages)
        if rows >= GROUP_ROWS or sum(page.nbytes for page in self._pages) >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        table = pa.Table.from_batches(self._pages, self.schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._pages.clear()


@contextmanager
def _writing(path: Path, collection: Collection) -> Iterator[Groups]:
    """A file beside `path` that takes its place at the end, or leaves nothing where an error ends the block."""
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder", field="path")
    schema = schema_of(collection)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")
    with unfinished.open("xb") as file:
        try:
            with pq.ParquetWriter(file, schema, **_encodings(schema)) as writer:
                groups = Groups(writer, schema)
                yield groups
                groups.flush()
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _encodings(schema: pa.Schema) -> dict[str, object]:
    """Dictionaries for what repeats; bytes of floats sorted by their place, which half precision leaves mostly zero."""
    names = schema.field("attributes").type.names if "attributes" in schema.names else []
    repeating = [path for name in names for path in (f"attributes.{name}", f"attributes.{name}.list.element")]
    split = ["vector.list.element"]
    return {"compression": "zstd", "use_dictionary": repeating or False, "use_byte_stream_split": split}
