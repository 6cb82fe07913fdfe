"""Where a run stands, on disk: a file is complete or not there, and what is in it is data, never code."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitrail.client import InvalidArgument

State = dict[str, Any]


def write(path: Path, state: State) -> None:
    """Replace the checkpoint.

    Raises:
        OSError: As `replacing`.
    """
    made = io.BytesIO()  # torch tells of a full disk as of an error of its own
    torch.save(state, made)
    with replacing(path) as partial:
        partial.write_bytes(made.getbuffer())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a file beside, which then takes the place of the file that is there.

    Raises:
        OSError: It cannot be written, as on a full disk; the file stays what it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        kept = "; the one before is kept" if path.exists() else ""
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}{kept}") from error


def read(path: Path) -> State | None:
    """The checkpoint; None where there is none.

    Raises:
        InvalidArgument: It cannot be read.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch has many for what is no checkpoint
        raise InvalidArgument(f"{path} is no checkpoint: {error}", field="out") from error
    return state
