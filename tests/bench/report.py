"""What a benchmark says, in a terminal and as Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from vitrail.cli.bench.machine import described


class Section(NamedTuple):
    """A table, and what is to be known of it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Asked(NamedTuple):
    """A ratio, and what is asked of it."""

    what: str
    ratio: float
    bound: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound


def asked_section(ratios: Iterable[Asked]) -> Section:
    """What is asked of ratios beside what they are."""
    rows = [
        (
            one.what,
            f"{one.ratio:.3f}",
            f"{'at most' if one.at_most else 'at least'} {one.bound}",
            "met" if one.is_met else "MISSED",
        )
        for one in ratios
    ]
    return Section("ratios", ("", "ratio", "asked", ""), rows)


def show(section: Section) -> None:
    table = Table(title=section.title, title_justify="left", caption=section.note or None, caption_justify="left")
    for place, column in enumerate(section.columns):
        table.add_column(column, justify="right" if place else "left")
    for row in section.rows:
        table.add_row(*row)
    Console(width=140).print(table)


def markdown(heading: str, command: str, sections: Iterable[Section]) -> str:
    """All tables, with the command that makes them again and the machine that it ran on."""
    lines = [f"# {heading}", "", f"`{command}` on {described()}."]
    for section in sections:
        lines += ["", f"## {section.title[0].upper()}{section.title[1:]}", ""]
        lines += [section.note, ""] if section.note else []
        lines += [f"| {' | '.join(section.columns)} |", f"|---|{'--:|' * (len(section.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def write(path: Path, heading: str, command: str, sections: Iterable[Section]) -> None:
    path.write_text(markdown(heading, command, sections))
