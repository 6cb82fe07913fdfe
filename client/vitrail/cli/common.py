"""What the commands share: the connection, how errors end, how figures are printed."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitrail.client import Client, VitrailError

Address = Annotated[str, typer.Option("--address", envvar="VITRAIL_ADDRESS", help="The coordinator, as HOST:PORT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]

DEFAULT_ADDRESS = "localhost:50051"
PIPE_WIDTH = 240
"""Columns where the output is not a terminal, so that nothing is cut that a program may want to read."""


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client for the time of a command. An error ends the command with one line."""
    try:
        with Client(address) as client:
            yield client
    except (VitrailError, OSError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command: one line on standard error, exit code 1."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


def needs(extra: str, error: ImportError) -> NoReturn:
    """End a command that lacks an extra of the package."""
    fail(f"this needs more packages ({error.name} is missing): pip install 'vitrail[{extra}]'")


def print_json(value: Any) -> None:
    """Print dataclasses, or what is made of them, as JSON."""
    typer.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not for JSON")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]], *, title: str = "") -> None:
    """Print a table; numbers stand at the right. What is in the cells is never read as markup."""
    listed = [list(row) for row in rows]
    table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[place], (int, float)) for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
