"""What containers are told is what processes read: a name that no process knows would be ignored in silence."""

import json
from typing import Any

import pytest
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from tests.deploy.rendering import CHART, GIVEN, Workload, objects, render, workloads
from vitrail.cli.main import app
from vitrail.server.config import Config as CoordinatorConfig
from vitrail.shard.config import Config as ShardConfig

CONFIGS: dict[str, type[BaseSettings]] = {
    "coordinator": CoordinatorConfig,
    "migrate": CoordinatorConfig,
    "shard": ShardConfig,
}
OF_COMMANDS = {"VITRAIL_ADDRESS"}
"""What a user's commands in a container read."""
OF_ONE_MACHINE = {"VITRAIL_REUSE_PORT"}
"""What only `vitrail up` sets."""
ELSEWHERE = {"VITRAIL_HOST": "10.1.2.3", "VITRAIL_STORE": "postgresql://user@host/name", "VITRAIL_THREADS": "2"}
"""What Kubernetes takes from the pod and from the Secret."""


def _told(workload: Workload) -> dict[str, str]:
    """The environment that Vitrail reads in a container."""
    told = {name: value for name, value in workload.environment.items() if name.startswith("VITRAIL_")}
    return {name: ELSEWHERE.get(name, value) for name, value in told.items()}


def _names(config: type[BaseSettings]) -> set[str]:
    return {f"VITRAIL_{name.upper()}" for name in config.model_fields}


@pytest.mark.parametrize("given", GIVEN)
def test_every_name_is_known(given: str) -> None:
    """Each VITRAIL_… of a container is a field of the configuration of its process."""
    for each in workloads(objects(given)):
        known = _names(CONFIGS[each.component]) | OF_COMMANDS if each.component in CONFIGS else set()
        assert set(_told(each)) <= known, each.name


@pytest.mark.parametrize("component", ["coordinator", "shard"])
def test_everything_can_be_told(component: str) -> None:
    """Each field of a configuration is set by a value of the chart, or has its name in `settings`, and never both."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    settings = {
        f"VITRAIL_{name.upper()}" for name in schema["properties"][component]["properties"]["settings"]["properties"]
    }
    told = {
        name
        for each in workloads(render({"shard": {"snapshots": "s3://bucket"}}))
        if each.component == component
        for name in _told(each)
    }
    assert settings | told == _names(CONFIGS[component]) - OF_ONE_MACHINE | told & OF_COMMANDS
    assert settings & told <= {"VITRAIL_THREADS"}


@pytest.mark.parametrize("given", GIVEN)
def test_processes_take_what_they_are_told(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of a container, with its environment, runs its process with just these settings."""
    taken: list[Any] = []
    for name in ("server", "shard"):
        monkeypatch.setattr(f"vitrail.{name}.main.run", taken.append)
    for each in workloads(objects(given)):
        if each.serves:
            result = CliRunner().invoke(app, each.container["command"][1:], env=_told(each))
            assert (result.exit_code, result.stderr) == (0, "")
            for name, value in _told(each).items():
                if name not in OF_COMMANDS:
                    assert _plain(getattr(taken[-1], name.removeprefix("VITRAIL_").lower())) == value
    assert len(taken) == len([each for each in workloads(objects(given)) if each.serves])


def _plain(setting: object) -> str:
    """As it stands in an environment."""
    match setting:
        case tuple():
            return ",".join(setting)
        case bool():
            return str(setting).lower()
        case float():
            return f"{setting:g}"
        case _:
            return str(setting)


def test_large_numbers_are_written_out() -> None:
    """Helm holds every number as a float, and would print 3.3554432e+07."""
    found = render({"coordinator": {"settings": {"max_image_bytes": 33554432, "horizon_hours": 0.5}}})
    (told,) = (each.environment for each in workloads(found) if each.component == "coordinator")
    assert told["VITRAIL_MAX_IMAGE_BYTES"] == "33554432"
    assert told["VITRAIL_HORIZON_HOURS"] == "0.5"


@pytest.mark.parametrize(("settings", "batch"), [({}, "64"), ({"embed_batch": 128}, "128")])
def test_gpus_are_fed_in_large_batches_unless_told(settings: dict[str, int], batch: str) -> None:
    """A setting of the user's goes before what the chart would choose."""
    found = render({"coordinator": {"gpu": {"count": 1}, "settings": settings}})
    (container,) = (each.container for each in workloads(found) if each.component == "coordinator")
    assert [each["value"] for each in container["env"] if each["name"] == "VITRAIL_EMBED_BATCH"] == [batch]
