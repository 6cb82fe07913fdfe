import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.e2e.running import PATIENCE, Running, eventually, wait_applied, wait_trained
from tests.shard.rows import clustered
from vitrail.client import Client

Start = Callable[..., Running]


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def test_ready_is_the_only_line_and_ctrl_c_ends_everything(start: Start) -> None:
    """Standard output is one line; after Ctrl-C the exit code is 0 and no process is left."""
    running = start("--shards", "2")
    children = list(running.children().values())
    assert len(children) == 3
    assert running.stop() == ""
    assert running.process.returncode == 0
    assert gone(children)


def test_children_die_with_a_killed_parent(start: Start) -> None:
    """Kill -9 of `vitrail up` leaves no process behind, and the next one starts on the same data."""
    running = start("--shards", "1")
    children = list(running.children().values())
    running.stop_hard()
    eventually(lambda: gone(children))
    again = start("--shards", "1")
    assert again.address


def test_a_restart_comes_back_trained_with_every_record(start: Start) -> None:
    """After an orderly stop the partitions come back from their files: the same version, nothing followed again."""
    running = start("--shards", "2")
    vectors = clustered(400, 24)
    with Client(running.address) as client:
        client.create_collection("c", dimension=24, train_at=100)
        client.upsert("c", ids=[f"r{n}" for n in range(400)], vectors=vectors)
        wait_applied(client, "c")
        before = wait_trained(client, "c")
    running.stop()
    again = start("--shards", "2")
    with Client(again.address) as client:
        after = client.stats("c")
        assert [p.version for p in after.partitions] == [p.version for p in before.partitions]
        assert [p.records for p in after.partitions] == [p.records for p in before.partitions]
        assert client.search("c", vector=vectors[5], top_k=1).hits[0].id == "r5"
    assert "deleted a partition" not in again.log.read_text()


def up(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitrail.cli.main", "up", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    """One line on standard error that names the port, exit code 1, and nothing was started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = up("--port", port, "--data", str(tmp_path / "data"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert port in result.stderr
    assert not (tmp_path / "data").exists()


def test_data_in_use_is_refused(start: Start, tmp_path: Path) -> None:
    """A second cluster on the same directory ends with the reason; the first one goes on."""
    running = start("--shards", "1")
    result = up("--shards", "1", "--port", "0", "--metrics-port", "0", "--data", str(tmp_path / "data"))
    assert result.returncode == 1
    assert "another" in result.stderr.splitlines()[-1]
    with Client(running.address) as client:
        assert client.list_collections() == []


def test_sigterm_drains(start: Start) -> None:
    """SIGTERM ends it like Ctrl-C, with exit code 0 and well within its time."""
    running = start("--shards", "1")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=15) == 0
