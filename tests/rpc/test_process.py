"""What a process knows of the machine that it runs on."""

from pathlib import Path

import psutil
import pytest

from vitrail.rpc import process


@pytest.mark.parametrize(
    ("said", "limit"), [("1048576\n", 1048576.0), ("max\n", None), ("9223372036854771712\n", None)]
)
def test_how_much_memory_a_process_may_take(
    said: str, limit: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its cgroup says, where that is less than there is."""
    (tmp_path / "memory.max").write_text(said)
    monkeypatch.setattr(process, "CGROUP_LIMITS", [tmp_path / "none", tmp_path / "memory.max"])
    total = psutil.virtual_memory().total
    assert process.memory_limit() == pytest.approx(limit or total)
