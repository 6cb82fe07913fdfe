"""The manifest: which files make a partition as it was published, with their sizes and hashes.

A partition's directory is published by replacing its manifest in one step, after every file that it names is on
disk. A directory whose files do not match its manifest is deleted and built again from the log, never repaired.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vitrail.shard.files import file_digest, write_durably

NAME = "manifest.json"
FORMAT = 1


class Mismatch(Exception):
    """A file is missing, too short, or not what the manifest says."""


class File(BaseModel):
    """One file: its name, how many of its bytes count, and their SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    sha256: str


class Trained(BaseModel):
    """The trained index and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: File
    version: str
    rows: int
    """It covers the rows before this one; a multiple of 8."""
    trained_on: int
    """Live records when it was trained."""
    factory: str
    lists: int
    nprobe: int
    rerank_factor: float


class Manifest(BaseModel):
    """A partition as published."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    collection_uid: int
    slot_begin: int
    slot_end: int
    dimension: int
    metric: str
    seq: int
    """Applied up to here; with `mark`, a checkpoint of the log."""
    mark: int
    rows: int
    vectors: File
    documents: File
    entries: File
    live: File
    """One bit a row, the lowest first."""
    trained: Trained | None = None

    def write(self, directory: Path) -> None:
        """Publish: every file that is named must be on disk by now."""
        write_durably(directory / NAME, self.model_dump_json(indent=1).encode())


def read(directory: Path) -> Manifest | None:
    """Read the manifest of a directory; None where there is none.

    Raises:
        Mismatch: It does not parse, or was written by a version that this one does not know.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise Mismatch(f"{path}: {error}") from error
    if manifest.format != FORMAT:
        raise Mismatch(f"{path} has format {manifest.format}, not {FORMAT}")
    return manifest


def verify(directory: Path, file: File) -> Path:
    """The path of a file that is as the manifest says.

    Raises:
        Mismatch: It is not.
    """
    path = directory / file.name
    if not path.is_file() or path.stat().st_size != file.size or file_digest(path) != file.sha256:
        raise Mismatch(f"{path} is not the file that was published")
    return path
