"""The stand's pods, told to a Prometheus as Kubernetes' API would: all else of its configuration is the chart's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy import prometheus
from tests.deploy.prometheus import Prometheus
from tests.deploy.rendering import NAMESPACE, RELEASE
from tests.stand import containers
from tests.stand.stand import Stand

INTERVAL = "15s"
"""As the chart has it."""
TELL_SECONDS = 0.5


@contextmanager
def scraping(stand: Stand, directory: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a stand where the chart was applied, as long as the block."""
    (held,) = (each["data"] for each in stand.objects if each["metadata"]["name"] == f"{RELEASE}-prometheus")
    assert held == {path.name: path.read_text() for path in (prometheus.ALERTS, prometheus.SCRAPE)}
    address, ended = f"{stand.address_of('prometheus')}:9090", threading.Event()

    def tell() -> None:
        while not ended.wait(TELL_SECONDS):
            running.tell(_pods(stand))

    with prometheus.running_prometheus(directory, _pods(stand), address=address, interval=INTERVAL) as running:
        telling = threading.Thread(target=tell)
        telling.start()
        try:
            yield running
        finally:
            ended.set()
            telling.join()


def _pods(stand: Stand) -> list[prometheus.Pod]:
    found = []
    for pod in stand.pods():
        if any(port["name"] == "metrics" for port in pod.container.get("ports", [])):
            address = f"{pod.facts.address}:{containers.port(pod.container, 'metrics')}"
            layout, shard = (pod.labels.get(f"vitrail.dev/{each}", "") for each in ("layout", "shard"))
            found.append(prometheus.Pod(pod.name, address, pod.owner.component, layout, shard, RELEASE, NAMESPACE))
    return found
