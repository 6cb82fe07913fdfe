"""Where a run stands, on disk: what is in the file is data, never code."""

import io
from pathlib import Path
from typing import Any

import torch

from vitrail.client import InvalidArgument
from vitrail.training.replacing import replacing

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
