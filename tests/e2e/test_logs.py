"""How much real processes log, changed while they run."""

import pytest
from typer.testing import CliRunner

from tests.e2e.running import Running
from vitrail.cli.main import app
from vitrail.client import Client


def test_a_process_logs_more(cluster: Running) -> None:
    """The coordinator and a shard, each for itself; another level is refused by its name."""
    with Client(cluster.address) as client:
        shard = client.shards().processes[0].address
    for address in (cluster.address, shard):
        for level in ("debug", "info"):
            done = CliRunner().invoke(app, ["log-level", level, "--address", address])
            assert (done.exit_code, done.stdout) == (0, f"{level}\n")
    refused = CliRunner().invoke(app, ["log-level", "loud", "--address", shard])
    assert refused.exit_code == 1
    assert "must be one of debug, info, warning, error" in refused.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1"])
def test_nobody_is_there(address: str) -> None:
    """One line says so."""
    done = CliRunner().invoke(app, ["log-level", "--address", address])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {address}: ")
