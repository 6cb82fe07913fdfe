"""What is on disk of a run: whole, or what was there before."""

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from vitrail.client import InvalidArgument
from vitrail.training import checkpoints


def test_a_disk_without_room(tmp_path: Path) -> None:
    """It says so, and the checkpoint before stays; nothing is left beside it."""
    path = tmp_path / "checkpoint.pt"
    checkpoints.write(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint.pt cannot be written: .*; the one before is kept"):
            checkpoints.write(path, {"step": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.read(path) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-pickle",)


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Hostile()}, tmp_path / "saved.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("saved.pt", "pickled.pt"):
        with pytest.raises(InvalidArgument, match="is no checkpoint"):
            checkpoints.read(tmp_path / name)
    assert not Path("made-by-a-pickle").exists()


def test_there_is_none(tmp_path: Path) -> None:
    assert checkpoints.read(tmp_path / "checkpoint.pt") is None
