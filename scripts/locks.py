"""Write the lock files of the images, or check that they still satisfy pyproject.toml."""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

LOCKS = Path("deploy/locks")
EXTRAS = {
    "command": ["parquet", "s3"],
    "shard": ["shard", "s3", "tracing"],
    "coordinator-cuda": ["server", "open-clip", "tracing"],
}
BUILD = "hatchling\npip\n"
"""What the stage that builds the wheel installs."""

CUDA = re.compile(r"^(torch|torchvision|triton|nvidia-|cuda-)")
"""What PyPI's torch brings for GPUs, and torch: the image without CUDA takes that one elsewhere."""

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    """The version of each package of a lock file."""
    return dict(PIN.findall(lock))


def main() -> None:
    """Compare, or write with --write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="take the versions that this environment has")
    write = parser.parse_args().write
    with TemporaryDirectory() as directory:
        made = _made(_installed() if write else None, Path(directory))
    stale = [name for name, text in made.items() if pins(_kept(name)) != pins(text)]
    if write:
        LOCKS.mkdir(exist_ok=True)
        for name, text in made.items():
            (LOCKS / name).write_text(text)
    elif stale:
        sys.exit(f"{', '.join(stale)}: no longer what pyproject.toml asks for; run `make locks`")


def _made(versions: str | None, directory: Path) -> dict[str, str]:
    """Each lock file by its name, of these versions where given, else of those that the lock files have."""
    made = {"build.txt": _compiled(["-"], versions or _kept("build.txt"), directory, BUILD)}
    for name, extras in EXTRAS.items():
        chosen = [f"--extra={extra}" for extra in extras]
        made[f"{name}.txt"] = _compiled(["pyproject.toml", *chosen], versions or _kept(f"{name}.txt"), directory)
    cuda = made["coordinator-cuda.txt"]
    parts = re.split(r"(?m)^(?=[a-z0-9])", cuda)
    made["coordinator.txt"] = "".join(part for part in parts if not CUDA.match(part))
    made["torch-cpu.txt"] = "".join(f"{name}=={pins(cuda)[name]}+cpu\n" for name in ("torch", "torchvision"))
    return made


def _compiled(sources: list[str], versions: str, directory: Path, given: str | None = None) -> str:
    constraints = directory / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins(versions).items()))
    command = ["uv", "pip", "compile", *sources, "--constraint", str(constraints), "--generate-hashes", "--no-annotate"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--python-platform=x86_64-manylinux_2_28"]
    command += ["--no-header", "--quiet"]
    command[0] = str(Path(sys.executable).with_name("uv"))
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}the lock files do not satisfy pyproject.toml; run `make locks`")
    return done.stdout


def _installed() -> str:
    """What is installed here, which is what the tests have run with."""
    command = [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable"]
    frozen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r"(?m)^\S+", lambda name: name[0].lower().replace("_", "-"), frozen)


def _kept(name: str) -> str:
    file = LOCKS / name
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    main()
