"""Progress, on standard error: a bar for what is long, a line for each step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True, highlight=False)


def tracked(
    blocks: Iterable[tuple[int, NDArray[np.float32]]], what: str, rows: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Pass on blocks of rows, and draw how far it has come."""
    if not CONSOLE.is_terminal:
        say(f"{what}: {rows:,} rows")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as progress:
        task = progress.add_task(what, total=rows)
        for start, block in blocks:
            yield start, block
            progress.update(task, completed=start + len(block))


def say(line: str) -> None:
    """Tell what comes next."""
    CONSOLE.print(line, style="dim", markup=False)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Tell what is waited for, as long as it takes."""
    if not CONSOLE.is_terminal:
        say(what)
        yield
        return
    with CONSOLE.status(what):
        yield
