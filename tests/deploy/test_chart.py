"""What Helm and Kubernetes say of the chart: it lints, it renders, and each object is one that Kubernetes knows."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.deploy.rendering import CHART, GIVEN, RELEASE, Object, objects, of_kind, render, values

KUBERNETES = ("1.29", "1.33", "1.37")
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that Prometheus' operator defines, not Kubernetes."""
INFO = 1


@pytest.mark.parametrize("given", GIVEN)
def test_lints(given: str) -> None:
    """Helm has nothing to say against it."""
    report = helm_python.lint(CHART, values(given), strict=True, kube_version=f"v{KUBERNETES[0]}.0")
    assert [message for message in report["messages"] if message["severity"] > INFO] == []
    assert report["errors"] in ([], None)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("given", GIVEN)
def test_objects_are_those_of_kubernetes(given: str, kubernetes: str) -> None:
    """Each object validates against the schema of its kind, which knows no other fields."""
    for each in objects(given):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, kubernetes, strict=True)


def test_words_stay_words() -> None:
    """Names that YAML would read as something else are still those that were given."""
    names: Object = {
        "store": {"secret": {"name": "1", "key": "2"}},
        "images": {"pullSecrets": ["3"], "tag": "4"},
        "shard": {
            "secrets": ["5"],
            "priorityClass": "6",
            "storage": {"class": "7"},
            "gpu": {"count": 1, "runtimeClass": "8"},
        },
        "serviceAccount": {"name": "9"},
    }
    for each in render(names, release="true"):
        kubernetes_validate.validate(each, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("given", GIVEN)
def test_quantities_are_those_of_kubernetes(given: str, tmp_path: Path) -> None:
    """To a schema, an amount of memory is any string; kubectl reads it as Kubernetes does."""
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(of_kind(objects(given), "Deployment", "StatefulSet", "Job")))
    _kubectl("set", "env", "--local", "--list", "-f", path)


@pytest.mark.parametrize("given", GIVEN)
def test_names_are_unique_and_short(given: str) -> None:
    """No object has another one's name, and none is too long for what Kubernetes makes of it, however many shards."""
    found = render(values(given), release="r" * 30)
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
    for kind, name in names:
        longest = re.sub(r"-of-\d+-shard-\d+$", "-of-1024-shard-1023", name)
        # Pods of a StatefulSet have a label of its name and eleven characters.
        assert len(longest) <= (52 if kind == "StatefulSet" else 63)


@pytest.mark.parametrize("given", GIVEN)
def test_everything_belongs_to_the_release(given: str) -> None:
    """Two releases in one namespace share no object."""
    for each in objects(given):
        assert each["metadata"]["name"] == RELEASE or each["metadata"]["name"].startswith(f"{RELEASE}-")
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE


def test_the_package_renders_the_same(tmp_path: Path) -> None:
    """What is shipped as an archive has all that is needed."""
    archive = helm_python.package(CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed, helm_python.Chart.load(CHART) as chart:
        assert packed.render({}, name=RELEASE) == chart.render({}, name=RELEASE)
        assert packed.schema == chart.schema


def test_notes_name_what_there_is() -> None:
    """What Helm prints says how to make the Secret, how to ask who serves, and what comes next between two layouts."""
    with helm_python.Chart.load(CHART) as chart:
        notes = {
            given: chart.render(values(given), name=RELEASE, namespace="search")["vitrail/templates/NOTES.txt"]
            for given in ("", "resharding")
        }
    found = {(each["kind"], each["metadata"]["name"]) for each in objects("")}
    (create,) = re.findall(r"kubectl (.* create secret [^@]*@\S+)", notes[""].replace("\\\n", ""))
    secret = yaml.safe_load(_kubectl(*create.split(), "--dry-run=client", "-o", "yaml"))
    assert (secret["metadata"]["name"], set(secret["data"])) == ("vitrail-store", {"url"})
    (deployment,) = re.findall(r"exec deploy/(\S+) -- vitrail shards", notes[""])
    assert ("Deployment", deployment) in found
    (service,) = re.findall(r"(\S+)\.search\.svc:50051", notes[""])
    assert ("Service", service) in found
    assert "shards: [3]" in notes["resharding"]
    assert "shards: [" not in notes[""]


def test_values_in_the_documentation_are_taken() -> None:
    """Each piece of a values file that docs/kubernetes.md shows renders as it stands."""
    text = (CHART.parents[1] / "docs/kubernetes.md").read_text()
    pieces = [yaml.safe_load(piece) for piece in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    of_chart = [piece for piece in pieces if "rules" not in piece]  # those are prometheus-adapter's
    assert len(of_chart) >= 3
    for piece in of_chart:
        assert render(piece) != list(objects(""))


def test_the_schema_takes_nothing_that_it_does_not_name() -> None:
    """Each object is closed, or one whose keys are the user's, with values of one type."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].pop("global") == {"type": "object"}  # what Helm hands to charts within another one
    found = [(path, each) for path, each in _inside(schema, "") if each.get("type") == "object"]
    assert len(found) > 20
    assert [path for path, each in found if each["additionalProperties"] not in (False, {"type": "string"})] == []


def _inside(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object within, with its path."""
    if isinstance(schema, dict):
        yield path, schema
        for name, each in schema.items():
            yield from _inside(each, f"{path}/{name}")


def _kubectl(*words: str | Path) -> str:
    """What a command prints that asks no cluster."""
    kubectl = Path(sys.executable).with_name("kubectl")
    return subprocess.run([kubectl, *words], check=True, capture_output=True, text=True).stdout
