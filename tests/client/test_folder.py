"""Indexing a folder."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.client.fakes import Fake
from tests.client.pictures import photo

from vitrail.client import InvalidArgument, NotFound, Unavailable


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
