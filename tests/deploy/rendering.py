"""The chart as Helm renders it: objects of Kubernetes as dictionaries, and what they hold."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "deploy/chart"
RELEASE, NAMESPACE = "vitrail", "search"
GIVEN = ("", *sorted(path.stem for path in (CHART / "ci").glob("*.yaml")))
"""The names of files of values in `ci`; the first one stands for the chart's own defaults."""

Object: TypeAlias = dict[str, Any]


def values(given: str) -> Object:
    """What a file in `ci` says."""
    return dict(yaml.safe_load((CHART / f"ci/{given}.yaml").read_text())) if given else {}


def render(changes: Mapping[str, Any], release: str = RELEASE) -> list[Object]:
    """All objects for some values.

    Raises:
        helm_python.HelmError: The values are refused.
    """
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(dict(changes), name=release, namespace=NAMESPACE)
    texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


@cache
def objects(given: str) -> tuple[Object, ...]:
    """All objects for a file in `ci`; not to be changed."""
    return tuple(render(values(given)))


class Workload(NamedTuple):
    """What runs pods: a Deployment, a StatefulSet or a Job."""

    kind: str
    name: str
    spec: Object
    pod: Object
    """The template of its pods: metadata and spec."""

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.pod["metadata"]["labels"])

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def serves(self) -> bool:
        return self.kind != "Job"

    @property
    def container(self) -> Object:
        (container,) = self.pod["spec"]["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, str]:
        """Each variable's value; of one that is taken from elsewhere, where that is."""
        return {each["name"]: each.get("value") or str(each["valueFrom"]) for each in self.container.get("env", [])}


def of_kind(found: tuple[Object, ...] | list[Object], *kinds: str) -> list[Object]:
    return [each for each in found if each["kind"] in kinds]


def workloads(found: tuple[Object, ...] | list[Object]) -> list[Workload]:
    return [
        Workload(each["kind"], each["metadata"]["name"], each["spec"], each["spec"]["template"])
        for each in of_kind(found, "Deployment", "StatefulSet", "Job")
    ]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels, {"matchLabels": …} alone, has what carries these."""
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
