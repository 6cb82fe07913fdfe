"""A real cluster with callers, scraped by a real Prometheus: the dashboard has data, and no alert fires."""

import time
from pathlib import Path

from tests.deploy.panels import ask_all
from tests.deploy.prometheus import Prometheus, running_prometheus
from tests.deploy.watching import REPLICAS, SHARDS, calling, clustered, fill, pods
from tests.e2e.running import PATIENCE, Running, eventually, wait_trained
from vitrail.client import Client


def test_every_query_of_the_dashboard_has_data(tmp_path: Path) -> None:
    """Where all is well, too: what never happened is 0, and not missing."""
    options = ("--shards", str(SHARDS), "--replicas", str(REPLICAS), "--port", "0", "--metrics-port", "0")
    cluster, rows = Running(tmp_path / "data", *options), clustered()
    try:
        with Client(cluster.address, timeout=60) as client:
            fill(client, rows)
            stats = wait_trained(client, "vectors")
        with running_prometheus(tmp_path / "prometheus", pods(stats)) as prometheus, calling(cluster.address, rows):
            eventually(lambda: len(prometheus.up()) == 5 and all(prometheus.up().values()))
            began = time.time()
            eventually(lambda: _has_data(prometheus, began))
            assert not prometheus.firing()
    finally:
        cluster.stop()


def _has_data(prometheus: Prometheus, began: float) -> bool:
    """Whether every query has; in the end it says which have not."""
    try:
        ask_all(prometheus.query_range, began, time.time(), rates_over="10s")
    except AssertionError:
        if time.time() - began > PATIENCE / 2:
            raise
        return False
    return True
