"""`make walkthrough`: every command of docs/training.md, run as it is printed there, and what each of them said.

    python -m tests.walkthrough FOLDER [FOLDER …] --out DIR [--docs DIR] [--add 'train=--epochs 2']

Each folder has class folders; all of them are copied to DIR/photos. Commands run one after the other in DIR; one that
ends in "&" goes on until all is over.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from vitrail.cli.bench.machine import described

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
STORY = "walkthrough.md"
PICTURES = {
    "vitrail train": Path("run/curves.png"),
    "--gallery before.png": Path("before.png"),
    "--gallery after.png": Path("after.png"),
}
"""What commands draw, by a part of them."""


class Said(NamedTuple):
    """A command, and what came of it."""

    command: str
    output: str
    seconds: float


class Failed(Exception):
    """A command did not end well; says which, and what it said."""


def commands(page: str) -> Iterator[str]:
    """The commands of a page, line by line: what stands in its blocks of sh."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def walk(out: Path, more: Mapping[str, str] | None = None) -> list[Said]:
    """Run all of them in a folder that has `photos`.

    Args:
        out: The folder.
        more: What is added to a command, by its second word, as "train".

    Raises:
        Failed: One of them did.
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = []
    with ExitStack() as running:
        for printed in commands(PAGE.read_text("utf-8")):
            command, added = printed.removesuffix("&").strip(), ""
            words = re.findall(r"\bvitrail (\S+)", command)
            if words:
                added = f" {(more or {}).get(words[0], '')}"
            start = time.monotonic()
            if printed.endswith("&"):
                said = _started(command + added, out, environment, running)
                environment["VITRAIL_ADDRESS"] = said.split()[1]
            else:
                said = _run(command + added, out, environment)
            found.append(Said(printed, said, time.monotonic() - start))
    return found


def story(said: Sequence[Said], pictures: Mapping[str, Path] = PICTURES) -> str:
    """What was said, as Markdown."""
    lines = ["# The walk-through", "", f"Every command of [training.md](../training.md), run on {described()}."]
    for each in said:
        lines += ["", "```console", f"$ {each.command}", each.output.strip(), "```", "", f"{each.seconds:.0f} s"]
        lines += [f"\n![]({path.name})" for part, path in pictures.items() if part in each.command]
    return "\n".join(lines) + "\n"


def _run(command: str, out: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=out, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{command}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


def _started(command: str, out: Path, environment: Mapping[str, str], running: ExitStack) -> str:
    """Start a cluster; returns the line that says where it is."""
    with (out / "cluster.log").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=out,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    running.callback(process.communicate, timeout=60)
    running.callback(process.terminate)
    said = process.stdout.readline() if process.stdout else ""
    if not said.startswith("ready "):
        raise Failed(f"{command}: {(out / 'cluster.log').read_text()[-3000:]}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="must not exist")
    parser.add_argument("--docs", type=Path, help="copy the story and its pictures here")
    parser.add_argument("--add", action="append", default=[], help="add options to a command: 'train=--epochs 2'")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    for folder in given.folders:
        shutil.copytree(folder, given.out / "photos", dirs_exist_ok=True)
    try:
        said = walk(given.out, dict(each.split("=", 1) for each in given.add))
    except Failed as error:
        sys.exit(str(error))
    (given.out / STORY).write_text(story(said), "utf-8")
    if given.docs:
        given.docs.mkdir(parents=True, exist_ok=True)
        for path in (Path(STORY), *PICTURES.values()):
            shutil.copy(given.out / path, given.docs)
    print(f"all commands of {PAGE.name} ran, as {shlex.quote(str(given.out / STORY))} tells")


if __name__ == "__main__":
    main()
