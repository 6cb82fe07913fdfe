import errno
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitrail.shard.files import MIN_CAPACITY, AppendFile, Mismatch, is_damage


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_a_reader_sees_all_that_was_written_while_the_mapping_grows(tmp_path: Path) -> None:
    """At any moment: searches go on while rows come in."""
    piece, reads = b"x" * (MIN_CAPACITY // 4), [0]
    for number in range(10):
        file, known = AppendFile(tmp_path / str(number)), [0]
        short: list[int] = []

        def read(file: AppendFile = file, known: list[int] = known, short: list[int] = short) -> None:
            while known[-1] >= 0:
                end = known[-1]
                reads[0] += 1
                if len(file.data()) < end:
                    short.append(end)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(60):
            file.append(piece)
            known.append(known[-1] + len(piece))
        known.append(-1)
        reader.join()
        file.close()
        assert not short
    assert reads[0] > 100


def test_a_file_is_closed_once(tmp_path: Path) -> None:
    """Closing twice must not cut another file that got the same descriptor meanwhile."""
    one = AppendFile(tmp_path / "one")
    one.append(b"1234")
    one.close()
    other = AppendFile(tmp_path / "other")
    other.append(b"12345678")
    one.close()
    other.sync()
    assert other.described().size == 8
    assert other.path.read_bytes()[:8] == b"12345678"


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (Mismatch("other bytes"), True),
        (FileNotFoundError(errno.ENOENT, "gone"), True),
        (OSError(errno.EIO, "a bad sector"), True),
        (OSError(errno.EMFILE, "too many open files"), False),
        (OSError(errno.ENOSPC, "a full disk"), False),
        (PermissionError(errno.EACCES, "not ours to read"), False),
    ],
    ids=str,
)
def test_what_is_damage(error: Mismatch | OSError, damage: bool) -> None:
    """Only what will not be there later either is thrown away."""
    assert is_damage(error) == damage
