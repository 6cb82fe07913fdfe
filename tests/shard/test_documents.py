import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.shard import documents, files
from vitrail.shard.documents import Document, Documents, IdMap
from vitrail.shard.files import AppendFile, Mismatch, all_or_nothing, hash_file, verify


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    """Ids and attributes of any row, in any order, with text of any kind and empty attributes."""
    held = Documents(tmp_path)
    held.append([Document("a", b"1", 1), Document("ключ/🧢", b"", 2), Document("c", b"\0\xff", 3)])
    held.append([Document("d", b"2", 4)])
    assert held.ids([3, 1, 0]) == ["d", "ключ/🧢", "a"]
    assert held.attributes([2, 1]) == [b"\0\xff", b""]
    assert len(held) == 4


NAMES = st.sampled_from([f"record-{n}" for n in range(12)])


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(NAMES, st.booleans()), max_size=60), same_hash=st.booleans(), merge_at=st.integers(1, 9)
)
def test_the_id_map_agrees_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, bool]], same_hash: bool, merge_at: int
) -> None:
    """Whatever is put and forgotten, also where all ids share one hash, each id has its own last row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IdMap, "MERGE_AT", merge_at)
        if same_hash:
            patch.setattr(documents, "hash_id", len)
        held = Documents(tmp_path_factory.mktemp("documents"))
        ids, expected = IdMap(held), dict[str, int]()
        for name, present in changes:
            if present:
                expected[name] = len(held)
                held.append([Document(name, b"", 0)])
            else:
                expected.pop(name, None)
            ids.put([name], [expected.get(name, -1)])
        asked = [f"record-{n}" for n in range(13)]
        assert ids.find(asked) == [expected.get(name, -1) for name in asked]
        reloaded = IdMap(held, np.array(sorted(expected.values()), np.intp))
        assert reloaded.find(asked) == [expected.get(name, -1) for name in asked]


def test_an_append_file_keeps_old_views_while_it_grows(tmp_path: Path) -> None:
    """A view taken before the file outgrew its mapping still shows the same bytes."""
    file = AppendFile(tmp_path / "file")
    file.append(b"first")
    before = file.data()
    file.append(bytes(3 << 20))
    file.append(b"last")
    assert before.tobytes() == b"first"
    assert file.data()[-4:].tobytes() == b"last"


def test_an_append_file_reopens_at_its_published_size(tmp_path: Path) -> None:
    """What a crash left behind the published size is cut off, and the hash is that of what counts."""
    file = AppendFile(tmp_path / "file")
    file.append(b"published")
    published = file.described()
    file.append(b" and lost")
    file.close()
    again = AppendFile(tmp_path / "file", published)
    assert again.data().tobytes() == b"published"
    assert again.described() == published
    again.append(b"!")
    assert again.data().tobytes() == b"published!"


def test_an_append_file_shorter_than_published_is_refused(tmp_path: Path) -> None:
    """A file that lost bytes is not opened as if it had them."""
    file = AppendFile(tmp_path / "file")
    file.append(b"ten bytes.")
    file.close()
    os.truncate(tmp_path / "file", 9)
    with pytest.raises(Mismatch, match="shorter"):
        AppendFile(tmp_path / "file", file.described())


def test_a_frozen_file_is_read_while_somebody_writes_it(tmp_path: Path) -> None:
    """Opening it to read what was published neither cuts what was appended since nor shows it."""
    file = AppendFile(tmp_path / "file")
    file.append(b"published")
    published = file.described()
    file.append(b" and more")
    frozen = AppendFile(tmp_path / "file", published, frozen=True)
    assert frozen.data().tobytes() == b"published"
    frozen.close()
    assert file.data().tobytes() == b"published and more"
    assert (tmp_path / "file").read_bytes().startswith(b"published and more")


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.binary(max_size=40), max_size=12), cut=st.integers(0, 12), damage=st.integers(0, 500))
def test_a_changed_byte_is_found_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], cut: int, damage: int
) -> None:
    """However a file was appended to, cut and reopened, its hashes are those of its bytes, and no other bytes'."""
    path = tmp_path_factory.mktemp("file") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", 16)
        file = AppendFile(path)
        for place, part in enumerate(parts):
            if place == cut:
                mark = file.mark()
                file.append(b"something that is forgotten again")
                file.cut(mark)
            file.append(part)
        published = file.described()
        file.close()
        assert verify(path, published).read_bytes() == b"".join(parts)
        again = AppendFile(path, published)
        again.append(b"and more")
        again.close()
        assert hash_file(path) == again.described()
        if published.size:
            data = bytearray(path.read_bytes())
            data[damage % published.size] ^= 1
            path.write_bytes(data)
            with pytest.raises(Mismatch):
                verify(path, published)


def test_documents_are_copied_row_by_row(tmp_path: Path) -> None:
    """A copy of chosen rows has their ids and attributes, in its own order of rows."""
    (tmp_path / "copy").mkdir()
    held, copy = Documents(tmp_path), Documents(tmp_path / "copy")
    held.append([Document("a", b"1", 1), Document("b", b"", 2), Document("ключ", b"\0\xff", 3), Document("d", b"2", 4)])
    copy.append([Document("first", b"0", 0)])
    copy.copy(held, np.array([0, 2, 3]))
    assert copy.ids([0, 1, 2, 3]) == ["first", "a", "ключ", "d"]
    assert copy.attributes([0, 1, 2, 3]) == [b"0", b"1", b"\0\xff", b"2"]
    assert copy.entries()["digest"].tolist() == [0, 1, 3, 4]


def test_appending_to_several_files_is_all_or_nothing(tmp_path: Path) -> None:
    """When a later file cannot take its bytes, the earlier ones and their hashes are as they were."""
    file = AppendFile(tmp_path / "file")
    file.append(b"kept")
    described = file.described()

    def append_in_vain() -> None:
        with all_or_nothing(file):
            file.append(b"dropped")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        append_in_vain()
    assert (file.data().tobytes(), file.described()) == (b"kept", described)
