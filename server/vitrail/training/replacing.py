"""Files that are complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
