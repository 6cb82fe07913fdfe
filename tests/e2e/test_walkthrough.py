"""docs/training.md runs as it is printed, on a few photos, from `vitrail dataset` to the flip and back."""

import csv
import re
from pathlib import Path

import pytest

from tests.e2e.photos import jpeg, tiles
from tests.walkthrough import Said, commands, walk

CLASSES = ("astronaut", "coffee", "chelsea")
QUICK = {
    "train": "--epochs 1 --batch 8 --workers 0",
    "project": "--dimension 8",
    "up": "--port 0 --metrics-port 0 --shards 1",
}


def test_commands_of_a_page() -> None:
    """Those of blocks of sh, with what goes on in the next line; nothing else."""
    page = "a\n```sh\none \\\n    more\ntwo &\n```\n```python\nthree\n```\n`four`\n```sh\nfive\n```\n"
    assert [re.sub(" +", " ", each) for each in commands(page)] == ["one more", "two &", "five"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_walkthrough(tmp_path: Path) -> None:
    """Every command ends well and leaves what the page says; the flip changes the version that serves, and back."""
    for name, image in tiles():
        label, _, place = name.partition("/")
        if label in CLASSES:
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / label / f"{place}.jpg").write_bytes(jpeg(image))
    said = walk(tmp_path, QUICK)
    with (tmp_path / "data" / "photos.csv").open() as table:
        assert {row["split"] for row in csv.DictReader(table)} == {"train", "validation", "test"}
    for made in ("data/report.html", "run/model.safetensors", "run/curves.png", "evaluation.html", "short.safetensors"):
        assert (tmp_path / made).stat().st_size > 1000
    serving = [serves(each) for each in said if each.command.startswith("vitrail versions")]
    assert serving == ["1", "2", "1"]
    before, after, back = (each.output for each in said if each.command.startswith("vitrail search"))
    assert hits(before) == hits(back)
    assert hits(before) != hits(after)


def serves(said: Said) -> str:
    """The version that serves, of `vitrail versions`."""
    (line,) = (line for line in said.output.splitlines() if "serves" in line)
    found = re.search(r"\d+", line)
    assert found
    return found.group()


def hits(said: str) -> list[str]:
    """The lines of hits of `vitrail search`, scores and all."""
    return re.findall(r".*\.jpg.*", said)
