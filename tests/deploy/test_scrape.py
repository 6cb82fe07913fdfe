"""The scrape configuration: which pods it takes, and what it calls them."""

import json
from pathlib import Path

import yaml

from tests.deploy.prometheus import SCRAPE, Pod, configure, promtool


def test_pods_are_found_by_their_labels(tmp_path: Path) -> None:
    """Those of the chart, at their metrics port, while they run; and they are called what the alerts call them."""
    coordinator = Pod("c-0", "10.0.0.1:9090", "coordinator")
    shard = Pod("s-0", "10.0.0.2:9091", "shard", layout="2", shard="0", release="mine", namespace="n")
    others = [
        coordinator.discovered() | {"__meta_kubernetes_pod_container_port_name": "grpc"},
        coordinator.discovered() | {"__meta_kubernetes_pod_label_app_kubernetes_io_name": "another"},
        coordinator.discovered() | {"__meta_kubernetes_pod_phase": "Succeeded"},
    ]
    targets = [{"targets": [pod.address], "labels": pod.discovered()} for pod in (coordinator, shard)]
    targets += [{"targets": ["10.0.0.3:1"], "labels": labels} for labels in others]
    (tmp_path / "pods.json").write_text(json.dumps(targets))
    file = configure(tmp_path, interval="15s")
    promtool("check", "config", str(file))
    found = json.loads(promtool("check", "service-discovery", "--timeout=1s", str(file), "vitrail"))
    kept = [visible(each["labels"]) for each in found if each["labels"]]
    assert sorted(kept, key=lambda labels: labels["instance"]) == [
        {
            "component": "coordinator",
            "instance": "10.0.0.1:9090",
            "job": "vitrail",
            "namespace": "default",
            "pod": "c-0",
            "release": "vitrail",
        },
        {
            "component": "shard",
            "instance": "10.0.0.2:9091",
            "job": "vitrail",
            "layout": "2",
            "namespace": "n",
            "pod": "s-0",
            "release": "mine",
            "shard": "0",
        },
    ]


def visible(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if not name.startswith("__")}


def test_kubernetes_is_asked_for_pods() -> None:
    """The part that no promtool of Debian can check: it is built without that discovery."""
    [job] = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod"}]
    assert job["job_name"] == "vitrail"
