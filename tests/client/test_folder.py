"""Indexing a folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from tests.client.fakes import Fake
from tests.client.pictures import photo

from vitrail.client import InvalidArgument, NotFound, Unavailable
from vitrail.client.batches import MESSAGE_LIMIT
from vitrail.client.parts import Part
from vitrail.client.sources import source_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, a nested folder, a file at the top, and what is no image."""
    root = tmp_path / "photos"
    for seed, name in enumerate(["hat/a.jpg", "hat/old/b.PNG", "shoe/ü é.png", "top.png"]):
        write(root / name, photo(seed))
    for name in [".hidden.png", ".cache/c.png", "notes.txt", "hat/Thumbs.db"]:
        write(root / name, b"none of your business")
    return root


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The same files in an object store, as the URL of the place where they are."""
    store, place = fsspec.filesystem("memory"), f"/{uuid4().hex}/photos"
    store.put(f"{folder}/", place, recursive=True)
    yield f"memory://{place}"
    store.rm(place, recursive=True)


async def test_files_become_records(client: Any, fake: Fake, folder: Path) -> None:
    """The id is the path below the folder, the first folder the category, the uri leads to the file."""
    await client.create_collection("c")
    report = await client.index("c", folder)
    assert (report.indexed, report.skipped, report.failed, report.seq) == (4, 0, (), 4)
    assert sorted(fake.records["c"]) == ["hat/a.jpg", "hat/old/b.PNG", "shoe/ü é.png", "top.png"]
    nested, top = await client.get("c", "hat/old/b.PNG"), await client.get("c", "top.png")
    assert nested.attributes == {"category": "hat"}
    assert nested.uri == (folder / "hat/old/b.PNG").as_uri()
    assert top.attributes == {}


async def test_indexing_resumes(client: Any, fake: Fake, folder: Path) -> None:
    """What is there with the same content is skipped; what changed or is new is sent."""
    await client.create_collection("c")
    await client.index("c", folder)
    write(folder / "top.png", photo(100))
    write(folder / "shoe/new.png", photo(101))
    fake.page = 2
    report = await client.index("c", str(folder))
    assert (report.indexed, report.skipped) == (2, 3)
    sent = fake.requests["UpsertRecordsRequest"][-1].records
    assert sorted(record.id for record in sent) == ["shoe/new.png", "top.png"]


async def test_files_that_fail_are_listed(client: Any, fake: Fake, folder: Path) -> None:
    """A file that cannot be read, and one that is refused, are reported and do no harm to the others."""
    write(folder / "hat/broken.jpg", b"\x00 truncated")
    write(folder / "hat/empty.jpg", b"")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    await client.create_collection("c")
    report = await client.index("c", folder)
    assert report.indexed == 4
    assert [(error.path, error.message) for error in report.failed] == [
        (str(folder / "gone.jpg"), "No such file or directory"),
        (str(folder / "hat/broken.jpg"), "not an image"),
        (str(folder / "hat/empty.jpg"), "not an image"),
    ]


async def test_a_name_that_is_not_utf8_is_listed(client: Any, folder: Path) -> None:
    """A file whose name cannot be an id is reported by a name that can be printed."""
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(photo())
    await client.create_collection("c")
    report = await client.index("c", folder)
    assert report.indexed == 4
    assert [error.path for error in report.failed] == [str(folder / "bad\ufffd.png")]


async def test_many_files_travel_in_batches(client: Any, fake: Fake, tmp_path: Path) -> None:
    """Calls carry 64 files at most, and every file arrives once."""
    for seed in range(200):
        write(tmp_path / f"{seed:03}.png", photo(seed))
    await client.create_collection("c")
    report = await client.index("c", tmp_path, progress=True)
    assert report.indexed == len(fake.records["c"]) == 200
    assert sorted(len(r.records) for r in fake.requests["UpsertRecordsRequest"]) == [8, 64, 64, 64]


async def test_an_empty_folder(client: Any, tmp_path: Path) -> None:
    """A folder without images is a report of zero."""
    await client.create_collection("c")
    report = await client.index("c", tmp_path)
    assert (report.indexed, report.skipped, report.failed, report.seq) == (0, 0, (), 0)


async def test_no_such_folder_or_collection(client: Any, fake: Fake, tmp_path: Path) -> None:
    """A missing folder is refused before anything is asked; a missing collection is the server's to refuse."""
    with pytest.raises(InvalidArgument) as refused:
        await client.index("c", tmp_path / "missing")
    assert refused.value.field == "folder"
    assert not fake.requests
    with pytest.raises(NotFound):
        await client.index("c", tmp_path)


async def test_a_server_that_goes_away_ends_the_run(client: Any, fake: Fake, folder: Path) -> None:
    """What concerns the whole run is raised, and another run goes on from there."""
    await client.create_collection("c")
    fake.failures += [Unavailable("store down")] * 9
    with pytest.raises(Unavailable):
        await client.index("c", folder)
    fake.failures.clear()
    assert (await client.index("c", folder)).indexed == 4


async def test_a_bucket_is_indexed_as_a_folder_is(client: Any, fake: Fake, bucket: str) -> None:
    """The same ids and categories, URLs as uris; what is there is skipped, what changed is sent."""
    await client.create_collection("c")
    report = await client.index("c", f"{bucket}/")
    assert (report.indexed, report.skipped, report.failed, report.seq) == (4, 0, (), 4)
    assert sorted(fake.records["c"]) == ["hat/a.jpg", "hat/old/b.PNG", "shoe/ü é.png", "top.png"]
    nested, top = await client.get("c", "hat/old/b.PNG"), await client.get("c", "top.png")
    assert (nested.attributes, top.attributes) == ({"category": "hat"}, {})
    assert nested.uri == f"{bucket}/hat/old/b.PNG"
    fsspec.filesystem("memory").pipe_file(f"{bucket}/top.png", photo(100))
    again = await client.index("c", bucket)
    assert (again.indexed, again.skipped) == (1, 3)


async def test_a_bucket_that_fails_in_places(
    client: Any, fake: Fake, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be listed, and a file that cannot be read, are reported by their URLs."""
    store = type(fsspec.filesystem("memory"))
    for method, place in (("ls", "hat/old"), ("cat_file", "hat/a.jpg")):
        monkeypatch.setattr(store, method, failing_at(place, getattr(store, method)))
    await client.create_collection("c")
    report = await client.index("c", bucket)
    assert [(error.path, error.message) for error in report.failed] == [
        (f"{bucket}/{place}", "RuntimeError: no credentials") for place in ("hat/a.jpg", "hat/old")
    ]
    assert sorted(fake.records["c"]) == ["shoe/ü é.png", "top.png"]


def failing_at(place: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def fails_there(store: Any, path: str, *args: Any, **options: Any) -> Any:
        if path.endswith(place):
            raise RuntimeError("no credentials")
        return method(store, path, *args, **options)

    return fails_there


async def test_parts_are_disjoint_and_together_everything(client: Any, fake: Fake, tmp_path: Path) -> None:
    """Each file is of one part, whatever else is there: no part finds what another one has sent."""
    for seed in range(60):
        write(tmp_path / f"{seed % 7}/{seed}.png", photo(seed))
    await client.create_collection("c")
    reports = [await client.index("c", tmp_path, part=(number, 3)) for number in (3, 1, 2)]
    assert sum(report.indexed for report in reports) == len(fake.records["c"]) == 60
    assert all(report.indexed >= 10 and not report.skipped for report in reports)
    write(tmp_path / "0/new.png", photo(60))
    again = [await client.index("c", tmp_path, part=(number, 3)) for number in (1, 2, 3)]
    assert sorted(report.indexed for report in again) == [0, 0, 1]
    assert [report.skipped for report in again] == [reports[place].indexed for place in (1, 2, 0)]


def test_which_part_a_file_is_of_never_changes() -> None:
    """Workers of different versions may share a folder."""
    ids = ["hat/a.jpg", "hat/old/b.PNG", "shoe/ü é.png", "top.png", "bad\udcff.png"]
    assert [next(number for number in range(1, 17) if Part(number, 16).has(id)) for id in ids] == [8, 2, 2, 9, 3]


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (-1, 3), (1, 0)])
async def test_no_such_part(client: Any, fake: Fake, tmp_path: Path, part: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.index("c", tmp_path, part=part)
    assert refused.value.field == "part"
    assert not fake.requests


@pytest.mark.parametrize("url", ["memory://nowhere", "dropbox://x", "file:///no/such"])
async def test_a_url_that_leads_nowhere(client: Any, fake: Fake, url: str) -> None:
    """No such place, and no such protocol here, are refused before anything is asked."""
    with pytest.raises(InvalidArgument) as refused:
        await client.index("c", url)
    assert refused.value.field == "folder"
    assert not fake.requests


async def test_the_url_of_a_local_folder_is_that_folder(client: Any, fake: Fake, folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    await client.create_collection("c")
    assert (await client.index("c", f"file://{folder}")).indexed == 4
    assert (await client.get("c", "top.png")).uri == (folder / "top.png").as_uri()


async def test_a_file_too_large_to_be_sent_is_not_read(client: Any, folder: Path) -> None:
    """It is refused by its size: a terabyte of nothing does no harm."""
    with (folder / "huge.png").open("wb") as file:
        file.truncate(2**40)
    await client.create_collection("c")
    report = await client.index("c", folder)
    assert report.indexed == 4
    assert [(error.path, error.message) for error in report.failed] == [
        (str(folder / "huge.png"), f"1,099,511,627,776 bytes, and a message holds {MESSAGE_LIMIT:,}")
    ]


def test_no_more_than_a_message_is_loaded_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may name any object of a bucket."""
    monkeypatch.setattr("vitrail.client.sources.MESSAGE_LIMIT", 9)
    store = fsspec.filesystem("memory")
    place = uuid4().hex
    store.pipe({f"/{place}/fits.jpg": b"123456789", f"/{place}/larger.jpg": b"1234567890" * 9})
    loaded = []
    read = type(store).cat_file

    def counted(*args: Any, **options: Any) -> Any:
        loaded.append(len(read(*args, **options)))
        return read(*args, **options)

    monkeypatch.setattr(type(store), "cat_file", counted)
    source = source_of(f"memory://{place}")
    assert source.read("fits.jpg") == b"123456789"
    with pytest.raises(OSError, match="a message holds 9 bytes"):
        source.read("larger.jpg")
    assert loaded == [9, 10]
