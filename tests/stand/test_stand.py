"""The chart installed on this machine: what its pods do when they start, die and end."""

from pathlib import Path

import pytest

from tests.e2e.running import wait_applied
from tests.stand.load import NAME, fill, vectors
from tests.stand.stand import Stand
from vitrail.client import Client


@pytest.mark.timeout(180)
def test_it_starts_answers_loses_a_shard_and_ends(tmp_path: Path) -> None:
    """From an empty database: all becomes ready by itself, one process of a shard dies and is started again, and no
    search misses anything meanwhile."""
    with Stand(tmp_path) as stand, Client(stand.address) as client:
        stand.apply()
        stand.settle()
        fill(client, 2000)
        wait_applied(client, NAME)
        shard = stand.pods("shard")[0]
        stand.kill(shard)
        stand.wait(lambda: shard.ready is None)
        (query,) = vectors(1, seed=2)
        while shard.ready is None:
            found = client.search(NAME, vector=query)
            assert (len(found.hits), found.coverage.fraction) == (10, 1.0)
        assert shard.restarts == 1
        stand.uninstall()
        assert not [event for event in stand.events if "is killed" in event.what]
