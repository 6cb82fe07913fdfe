"""A real Prometheus with the chart's own scrape configuration and rules, and the pods that it is told of."""

import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.debian import unpacked

FILES = Path(__file__).parents[2] / "deploy" / "chart" / "files"
ALERTS, SCRAPE = FILES / "alerts.yaml", FILES / "scrape.yaml"
START_SECONDS = 30.0


class Pod(NamedTuple):
    """A pod of the chart, as Kubernetes would tell of it.

    Attributes:
        name: Its own.
        address: HOST:PORT of its metrics.
        component: "coordinator" or "shard".
        layout: Of a shard, of how many it is one.
        shard: Which one.
        release: Of the chart.
        namespace: That it is in.
    """

    name: str
    address: str
    component: str
    layout: str = ""
    shard: str = ""
    release: str = "vitrail"
    namespace: str = "default"

    def discovered(self) -> dict[str, str]:
        """The labels that the service discovery of Kubernetes gives a target."""
        pod = "__meta_kubernetes_pod_"
        return {
            "__meta_kubernetes_namespace": self.namespace,
            f"{pod}name": self.name,
            f"{pod}phase": "Running",
            f"{pod}container_port_name": "metrics",
            f"{pod}label_app_kubernetes_io_name": "vitrail",
            f"{pod}label_app_kubernetes_io_instance": self.release,
            f"{pod}label_app_kubernetes_io_component": self.component,
            f"{pod}label_vitrail_dev_layout": self.layout,
            f"{pod}label_vitrail_dev_shard": self.shard,
        }


class Prometheus:
    """One that runs; `tell` it of pods whenever they have changed."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self.url = url

    def tell(self, pods: Sequence[Pod]) -> None:
        tell(self._directory, pods)

    def query_range(self, text: str, begin: float, end: float, step: float) -> list[Mapping[str, Any]]:
        """What an expression was, by the wall clock: as the API tells it, a metric and values each."""
        return list(self._get("query_range", query=text, start=begin, end=end, step=step)["result"])

    def firing(self) -> dict[str, list[Mapping[str, str]]]:
        """The alerts that fire now, by name, each with its labels."""
        alerts: dict[str, list[Mapping[str, str]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                alerts.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return alerts

    def up(self) -> dict[str, bool]:
        """The pods that it scrapes by name, and whether each answered the last time."""
        targets = self._get("targets")["activeTargets"]
        return {each["labels"]["pod"]: each["health"] == "up" for each in targets}

    def _get(self, what: str, **arguments: object) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(arguments)}") as response:
            return json.load(response)["data"]


def promtool(*words: str) -> str:
    """What promtool prints; fails with it where it does."""
    done = subprocess.run(
        [unpacked("prometheus") / "usr/bin/promtool", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configure(directory: Path, *, interval: str) -> Path:
    """Write the chart's configuration, but that it reads in a file what it would ask Kubernetes; rules as often."""
    [job] = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    del job["kubernetes_sd_configs"]
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    job |= {"scrape_interval": interval, "scrape_timeout": min(interval, job["scrape_timeout"], key=_seconds)}
    made = {"global": {"evaluation_interval": interval}, "rule_files": [str(ALERTS)], "scrape_configs": [job]}
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(made))
    return file


def tell(directory: Path, pods: Sequence[Pod]) -> None:
    """Write the file that says which pods there are."""
    beside = directory / "pods.new"
    beside.write_text(json.dumps([{"targets": [pod.address], "labels": pod.discovered()} for pod in pods]))
    beside.replace(directory / "pods.json")


@contextlib.contextmanager
def running_prometheus(
    directory: Path, pods: Sequence[Pod], *, address: str = "127.0.0.1:0", interval: str = "1s"
) -> Iterator[Prometheus]:
    """One with its data in a directory of its own, as long as the block."""
    directory.mkdir(parents=True, exist_ok=True)
    tell(directory, pods)
    file = configure(directory, interval=interval)
    program = unpacked("prometheus") / "usr/bin/prometheus"
    options = [f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}"]
    log_path = directory / "prometheus.log"
    with log_path.open("wb") as log, subprocess.Popen([program, *options], stderr=log, stdout=log) as process:
        try:
            yield Prometheus(directory, _listening(process, log_path))
        finally:
            process.terminate()


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The URL at which a process listens by now."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r'msg="Listening on" address=(\S+)', log.read_text()):
            url = f"http://{found[1]}"
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/-/ready"):
                return url
        time.sleep(0.02)
    raise AssertionError(f"Prometheus does not start: {log.read_text()[-3000:]}")


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
