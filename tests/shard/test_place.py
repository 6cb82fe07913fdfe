"""What lies in an object store of a partition: fsspec's own in memory, written, fetched, damaged and forged."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tests.server.fakes import sample
from tests.shard.rows import clustered, collection, upsert
from tests.shard.test_partition import SLOTS, build, ids_of
from vitrail.shard import manifest, place
from vitrail.shard.files import Mismatch
from vitrail.shard.partition import Partition
from vitrail.shard.place import Place, Published, Stopped
from vitrail.v1.log_pb2 import Cursor

DIMENSION = 64
CHUNK = 4096


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.shard.files.CHUNK", CHUNK)
    monkeypatch.setattr("vitrail.shard.place.CHUNK", CHUNK)


class World:
    """A partition, and its place in an object store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = fsspec.filesystem("memory")
        self.path = f"/{uuid4().hex}/1/0-1024"
        self.goes_on = True
        self.place = Place(self.store, self.path, lambda: self.goes_on)
        self.partition = Partition(directory / "1", collection(DIMENSION, train_at=300), SLOTS)

    def fill(self, count: int, first: int = 0) -> None:
        vectors = clustered(count, DIMENSION, seed=first)
        self.partition.apply([upsert(f"r{first + row}", vector, first + row + 1) for row, vector in enumerate(vectors)])
        self.partition.checkpoint(Cursor(collection_uid=1, seq=first + count, mark=7))

    def write(self, writer: str = "me") -> float:
        """Publish and write a snapshot; returns how many bytes of chunks were sent."""
        self.partition.publish()
        published = manifest.read(self.partition.directory)
        assert published is not None
        before = sample("vitrail_snapshot_bytes_total", what="written")
        with Published(self.partition.directory, published) as held:
            self.place.write(held, writer, self.place.read())
        return sample("vitrail_snapshot_bytes_total", what="written") - before

    def fetch(self) -> Partition:
        """The partition that the snapshot makes."""
        target = self.directory / uuid4().hex
        target.mkdir()
        listing = self.place.read()
        assert listing is not None
        self.place.fetch(listing, target)
        return Partition(target, collection(DIMENSION, train_at=300), SLOTS)

    def chunks(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.store.find(f"{self.path}/chunks")}

    def listing(self) -> Any:
        return json.loads(self.store.cat_file(f"{self.path}/manifest.json"))

    def forge(self, listing: Any) -> None:
        self.store.pipe_file(f"{self.path}/manifest.json", json.dumps(listing).encode())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_was_written_is_fetched(world: World) -> None:
    """Vectors, ids and the trained index are as they were, verified, at the same place in the log."""
    assert world.place.read() is None
    world.fill(400)
    world.partition.swap(build(world.partition))
    world.write()
    other = world.fetch()
    assert (other.rebuilt, other.cursor, other.state) == ("", world.partition.cursor, "trained")
    other.verify()
    queries = clustered(20, DIMENSION, seed=3)
    assert ids_of(other, other.search(queries, 5)) == ids_of(world.partition, world.partition.search(queries, 5))
    assert not list(other.directory.glob("building*"))


def test_only_what_is_new_is_sent(world: World) -> None:
    """Of files that have grown, the chunks from the last one on; of what did not change nothing."""
    world.fill(400)
    whole = world.write()
    assert whole == sum(world.store.sizes([f"{world.path}/chunks/{name}" for name in world.chunks()]))
    assert world.write() == 0
    world.fill(10, first=400)
    row = DIMENSION * 2
    assert 10 * row < world.write() < 10 * row + 5 * CHUNK
    other = world.fetch()
    assert other.view.records == 410
    other.verify()


def test_a_chunk_that_is_gone_or_cut_short_is_sent_again(world: World) -> None:
    """Although the manifest there names it: what counts is what lies there."""
    world.fill(400)
    world.write()
    one, other = sorted(world.chunks())[:2]
    world.store.rm(f"{world.path}/chunks/{one}")
    world.store.pipe_file(f"{world.path}/chunks/{other}", b"x")
    assert world.write() > 0
    assert world.fetch().view.records == 400


def test_chunks_that_are_named_no_more_are_deleted_after_an_hour(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: somebody may be fetching them. Whoever wrote them, and however long ago."""
    now = [1e9]
    monkeypatch.setattr("vitrail.shard.place.time.time", lambda: now[0])
    world.fill(100)
    world.write()
    foreign = sha256(b"foreign").hexdigest()
    world.store.pipe_file(f"{world.path}/chunks/{foreign}", b"foreign")
    first = world.chunks()
    now[0] += 1e6
    world.fill(100, first=100)
    world.write()
    listing = world.place.read()
    assert listing is not None
    old = listing.unused.keys()
    assert foreign in old
    assert old < first < world.chunks()
    now[0] += 3600
    world.write()
    assert old < world.chunks()
    now[0] += 1
    world.write()
    assert not old & world.chunks()
    assert world.fetch().view.records == 200


def test_one_who_fetches_while_another_writes_gets_what_he_began(world: World) -> None:
    """The chunks of the snapshot before are still there."""
    world.fill(400)
    world.write()
    listing = world.place.read()
    assert listing is not None
    world.fill(100, first=400)
    world.write()
    target = world.directory / "fetched"
    target.mkdir()
    world.place.fetch(listing, target)
    assert Partition(target, collection(DIMENSION), SLOTS).view.records == 400


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes(len(data)), lambda data: b""])
def test_a_damaged_chunk_is_noticed_before_anything_is_opened(world: World, damage: Callable[[bytes], bytes]) -> None:
    """Cut short or changed, it is not what its name says; and no manifest is left that names what was fetched."""
    world.fill(400)
    world.write()
    path = f"{world.path}/chunks/{sorted(world.chunks())[3]}"
    world.store.pipe_file(path, damage(world.store.cat_file(path)))
    target = world.directory / "fetched"
    target.mkdir()
    listing = world.place.read()
    assert listing is not None
    with pytest.raises(Mismatch, match="damaged"):
        world.place.fetch(listing, target)
    assert not (target / manifest.NAME).exists()
    world.store.rm(path)
    shutil.rmtree(target)
    target.mkdir()
    with pytest.raises(FileNotFoundError):
        world.place.fetch(listing, target)


def test_a_file_that_is_damaged_here_is_not_sent(world: World) -> None:
    """The snapshot before stays what it was."""
    world.fill(100)
    world.write()
    world.fill(300, first=100)
    world.partition.publish()
    (vectors,) = world.partition.directory.glob("table-*/vectors")
    with vectors.open("r+b") as file:
        file.seek(300 * DIMENSION * 2)
        file.write(bytes(64))
    with pytest.raises(Mismatch, match="from byte"):
        world.write()
    assert world.fetch().view.records == 100


def test_it_stops_when_the_shard_does(world: World) -> None:
    """Between chunks, both ways."""
    world.fill(400)
    world.goes_on = False
    with pytest.raises(Stopped):
        world.write()
    world.goes_on = True
    world.write()
    world.goes_on = False
    with pytest.raises(Stopped):
        world.fetch()


def _set(*path: str, value: Any) -> Callable[[Any], None]:
    def change(listing: Any) -> None:
        for name in path[:-1]:
            listing = listing[name]
        listing[path[-1]] = value

    return change


def _rename(before: str, after: str) -> Callable[[Any], None]:
    """Give a file of the partition another name, wherever it stands."""

    def change(listing: Any) -> None:
        for path in list(listing["chunks"]):
            if path.split("/")[-1] == before:
                listing["chunks"][path.replace(before, after)] = listing["chunks"].pop(path)
        listing["partition"]["table"][before]["name"] = after

    return change


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (_rename("vectors", "../../vectors"), "no name"),
        (_rename("vectors", "/etc/passwd"), "no name"),
        (_rename("vectors", "manifest.json"), "no name"),
        (_rename("vectors", ""), "no name"),
        (_set("partition", "table", "directory", value="../1"), "other files"),
        (_set("partition", "table", "vectors", "size", value=1 << 50), "has 13 chunks"),
        (_set("partition", "table", "vectors", "size", value=-1), "has 13 chunks"),
        (_set("partition", "table", "vectors", "hashes", value=[]), "has 13 chunks"),
        (_set("partition", "format", value=0), "formats"),
        (_set("format", value=2), "formats"),
        (_set("chunks", value={}), "other files"),
        (_set("chunks", "live", value=["../../../etc/passwd"]), "cannot be read"),
        (_set("more", value=1), "cannot be read"),
        (_set("written_at", value="yesterday"), "cannot be read"),
    ],
)
def test_a_manifest_from_outside_is_not_trusted(world: World, forged: Callable[[Any], None], why: str) -> None:
    """What would be written elsewhere, or does not fit together, is refused before anything is fetched."""
    world.fill(400)
    world.write()
    listing = world.listing()
    forged(listing)
    world.forge(listing)
    with pytest.raises(Mismatch, match=why):
        world.place.read()


def test_a_manifest_that_is_none_or_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is parsed for long."""
    world.fill(10)
    world.write()
    for data in (b"", b"[]", b"\xff", b"[" * 100_000):
        world.store.pipe_file(f"{world.path}/manifest.json", data)
        with pytest.raises(Mismatch, match="cannot be read"):
            world.place.read()
    monkeypatch.setattr(place, "MAX_LISTING_BYTES", 1000)
    world.store.pipe_file(f"{world.path}/manifest.json", b" " * 1001)
    with pytest.raises(Mismatch, match="more than 1000 bytes"):
        world.place.read()


def test_what_the_disk_has_no_room_for_is_not_fetched(world: World) -> None:
    """Before the first byte is."""
    world.fill(10)
    world.write()
    listing = world.place.read()
    assert listing is not None
    table = listing.partition.table
    vectors = table.vectors.model_copy(update={"size": 1 << 50})
    table = table.model_copy(update={"vectors": vectors})
    large = listing.model_copy(update={"partition": listing.partition.model_copy(update={"table": table})})
    target = world.directory / "fetched"
    target.mkdir()
    with pytest.raises(OSError, match="the disk"):
        world.place.fetch(large, target)
    assert not list(target.iterdir())
