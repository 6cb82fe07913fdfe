"""All partitions of this shard: one a collection in the catalog."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog

from vitrail.shard import manifest, metrics
from vitrail.shard.device import Device
from vitrail.shard.files import sync
from vitrail.shard.partition import Partition
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.log_pb2 import Catalog, Cursor

log = structlog.get_logger()


class Partitions:
    """The partitions by collection uid. Written by one thread, read by any."""

    def __init__(
        self, directory: Path, slots: tuple[int, int], index_bytes: int = 0, device: Device | None = None
    ) -> None:
        """Look for partitions in a directory.

        Args:
            directory: Where they are kept.
            slots: Of which slots.
            index_bytes: What all trained indexes together may take in RAM; 0 for no limit.
            device: Where copies of trained indexes are searched.
        """
        self.slots = slots
        self.catalog_seq = 0
        self._directory = directory
        self._index_bytes = index_bytes
        self._device = device
        self._partitions: dict[int, Partition] = {}

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._partitions.values()))

    def get(self, uid: int) -> Partition | None:
        return self._partitions.get(uid)

    def collections(self) -> list[Collection]:
        return [partition.collection for partition in self]

    def cursors(self) -> list[Cursor]:
        """Where each partition is in the log."""
        return [partition.cursor for partition in self]

    def bytes_a_record(self) -> float:
        """What a trained index may take in RAM for each record; 0 for no limit."""
        return self._index_bytes / max(1, sum(partition.view.records for partition in self))

    def take_catalog(self, catalog: Catalog) -> None:
        """Open or start what the catalog names, drop what it does not.

        Raises:
            OSError: One cannot be opened now; the catalog is to be taken again.
        """
        named = {collection.uid: collection for collection in catalog.collections}
        for uid in self._partitions.keys() - named.keys():
            self._partitions.pop(uid).drop()
            metrics.forget(uid)
            log.info("dropped a partition", collection_uid=uid)
        for uid, collection in named.items():
            if uid in self._partitions:
                self._partitions[uid].collection = collection
            else:
                self._partitions[uid] = self._open(collection)
        self.catalog_seq = catalog.seq
        self._remove_unknown_directories()

    def adopt(self, partition: Partition, directory: Path) -> None:
        """Open, in the place of a partition that has applied nothing, one whose files lie in a directory of its own.

        Raises:
            OSError: They could not be moved, and the partition is as it was; or not be opened now, and the catalog is
                to be taken again.
        """
        uid = partition.collection.uid
        if self._partitions.get(uid) is not partition or partition.cursor.seq:
            return
        for path in directory.iterdir():
            if path.name != manifest.NAME:
                path.rename(partition.directory / path.name)
        sync(partition.directory)
        (directory / manifest.NAME).rename(partition.directory / manifest.NAME)
        sync(partition.directory)
        del self._partitions[uid]
        partition.close()
        self._partitions[uid] = self._open(partition.collection)

    def close(self) -> None:
        for partition in self:
            partition.close()

    def _open(self, collection: Collection) -> Partition:
        partition = Partition(self._directory / str(collection.uid), collection, self.slots, self._device)
        if partition.rebuilt:
            metrics.REBUILDS.inc()
            log.warning("deleted a partition that cannot be used", collection=collection.name, why=partition.rebuilt)
        log.info("opened a partition", collection=collection.name, records=partition.view.records)
        return partition

    def _remove_unknown_directories(self) -> None:
        for path in self._directory.iterdir():
            if path.is_dir() and path.name.isdigit() and int(path.name) not in self._partitions:
                shutil.rmtree(path)
