"""Builds a target of deploy/Dockerfile without a container engine: each step runs by chroot in a directory that started
as Debian's base system. Needs root, and Linux."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

from tests import debian

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = "debian:bookworm-slim"

KNOWN = {"ARG", "FROM", "RUN", "COPY", "ENV", "LABEL", "USER", "ENTRYPOINT", "CMD", "EXPOSE"}
"""Instructions that are carried out, or that change nothing but how a container starts."""


@dataclass(frozen=True)
class Step:
    """One instruction, with its variables already replaced in ARG, ENV, COPY and FROM."""

    instruction: str
    value: str


@dataclass(frozen=True)
class Stage:
    """What stands from one FROM to the next."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


@dataclass
class Image:
    """A directory as a root, and how a process starts in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)

    def inside(
        self, command: list[str], more: Mapping[str, str] | None = None, *, read_only: bool = False, build: bool = False
    ) -> list[str]:
        """What runs a command in here as the image's user, with `more` in its environment.

        With `read_only`, nothing can be written but /tmp and /data, which are empty, as in the chart's pods.
        """
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.environment}
        variables |= more or {}
        if build:
            # The registries' certificates and names are the machine's; so they are no part of the image.
            variables |= {
                "PIP_CERT": "/run/host/certificates.crt",
                "DEBIAN_FRONTEND": "noninteractive",
                **self.arguments,
            }
        root = shlex.quote(str(self.root))
        mounts = [f"mount --bind {root} {root}", f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
        if build:
            mounts += [f"mount -t tmpfs tmpfs {root}/run", f"mkdir {root}/run/host"]
            mounts += [f"cp {CERTIFICATES} {root}/run/host/certificates.crt"]
            mounts += [f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf"]
        if read_only:
            mounts += [f"mount -o remount,bind,ro {root}", f"mount -t tmpfs tmpfs {root}/tmp"]
            if (self.root / "data").is_dir():
                mounts += [f"mount -t tmpfs -o mode=1777 tmpfs {root}/data"]
        start = ["chroot", f"--userspec={self.user}", str(self.root), "env", "-i"]
        start += [f"{name}={value}" for name, value in variables.items()]
        script = "\n".join([*mounts, f"exec {shlex.join([*start, *command])}"])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]


def parsed(text: str) -> list[Stage]:
    """The stages of a Dockerfile.

    Raises:
        ValueError: It has an instruction that cannot be run here.
    """
    given: dict[str, str] = {}
    stages: list[Stage] = []
    for entry in DockerfileParser(fileobj=io.BytesIO(text.encode()), env_replace=False).structure:
        step = Step(entry["instruction"], entry["value"])
        if step.instruction == "COMMENT":
            continue
        if step.instruction not in KNOWN:
            raise ValueError(f"{step.instruction} is not one of {sorted(KNOWN)}")
        if step.instruction == "FROM":
            base, _, name = _filled(step.value, given).partition(" AS ")
            stages.append(Stage(name, base))
        elif not stages:
            name, _, value = step.value.partition("=")
            given[name] = value
        else:
            stages[-1].steps.append(step)
    return stages


def build(target: str, directory: Path, built: dict[str, Image]) -> Image:
    """Run the stages that a target needs, each in its own directory below `directory`, but for those of `built`."""
    stages = {stage.name: stage for stage in parsed(DOCKERFILE.read_text())}
    return _built(stages[target], stages, directory, built)


def _built(stage: Stage, stages: dict[str, Stage], directory: Path, built: dict[str, Image]) -> Image:
    if stage.name in built:
        return built[stage.name]
    if stage.base in stages:
        under = _built(stages[stage.base], stages, directory, built)
    elif stage.base == BASE:
        under = Image(_debian())
    else:
        raise ValueError(f"{stage.base} cannot be had here, only {BASE}")
    root = directory / stage.name
    subprocess.run(["cp", "--archive", "--reflink=auto", under.root, root], check=True)
    image = Image(root, dict(under.environment), under.user, under.entrypoint, under.command)
    for step in stage.steps:
        if step.instruction == "COPY" and (other := re.match(r"--from=(\S+) ", step.value)):
            source = _built(stages[other[1]], stages, directory, built)
            _copy(step.value.removeprefix(other[0]), source.root, image)
        else:
            _run(step, image)
    built[stage.name] = image
    return image


def _run(step: Step, image: Image) -> None:
    match step.instruction:
        case "RUN":
            command = image.inside(["/bin/sh", "-c", step.value], build=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise AssertionError(f"RUN {step.value}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        case "COPY":
            _copy(step.value, REPOSITORY, image)
        case "ENV":
            image.environment |= dict(part.split("=", 1) for part in shlex.split(step.value))
        case "ARG":
            name, _, value = step.value.partition("=")
            image.arguments[name] = value
        case "USER":
            image.user = step.value
        case "ENTRYPOINT":
            image.entrypoint = json.loads(step.value)
        case "CMD":
            image.command = json.loads(step.value)


def _copy(value: str, source: Path, image: Image) -> None:
    """As COPY does: a directory's content, a file into what ends with a slash."""
    *names, to = value.split()
    target = image.root / to.lstrip("/")
    for name in names:
        found = source / name.lstrip("/")
        if found.is_dir():
            hidden = shutil.ignore_patterns("__pycache__") if source == REPOSITORY else None  # .dockerignore
            shutil.copytree(found, target, symlinks=True, ignore=hidden, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, target)


def _filled(text: str, given: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda name: given[name[1]], text)


def _debian() -> Path:
    """Debian's base system, made once and kept."""
    home = debian.CACHE / BASE.replace(":", "-")
    if not home.is_dir():
        tool = debian.unpacked("debootstrap")
        made = home.with_name(f"{home.name}-{os.getpid()}")
        environment = os.environ | {"DEBOOTSTRAP_DIR": str(tool / "usr/share/debootstrap")}
        command = ["sh", str(tool / "usr/sbin/debootstrap"), "--variant=minbase", "bookworm", str(made)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        made.rename(home)
    return home
