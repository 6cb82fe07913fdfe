"""The manifest: which files make a partition as it was published, with their sizes and hashes.

A partition is published by replacing its manifest in one step, after every file that it names is on disk. A
partition whose files do not match its manifest is deleted and built again from the log, never repaired.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vitrail.shard.columns import ColumnFile
from vitrail.shard.files import File, Mismatch, write_durably
from vitrail.shard.index import Choices, Recipe
from vitrail.shard.recall import Curve

NAME = "manifest.json"
FORMAT = 3

CONFIG = ConfigDict(frozen=True, extra="forbid")


class Format(BaseModel):
    """What every version can read of any manifest."""

    format: int


class TableFiles(BaseModel):
    """The rows of a partition, in a directory of their own."""

    model_config = CONFIG
    directory: str
    rows: int
    vectors: File
    documents: File
    entries: File
    columns: tuple[ColumnFile, ...]


class TrainedFile(BaseModel):
    """A trained index and how it was made."""

    model_config = CONFIG
    file: File
    rows: int
    """It covers the rows before this one; a multiple of 8."""
    version: str
    trained_on: int
    """Live records when it was trained."""
    choices: Choices
    """What the collection asked for; the memory budget apart."""
    recipe: Recipe
    curve: Curve
    """As it was measured when it was trained."""


class Manifest(BaseModel):
    """A partition as published."""

    model_config = CONFIG
    format: int = FORMAT
    collection_uid: int
    slot_begin: int
    slot_end: int
    dimension: int
    metric: str
    seq: int
    """Applied up to here; with `mark`, a checkpoint of the log."""
    mark: int
    table: TableFiles
    live: File
    """One bit a row, the lowest first."""
    trained: TrainedFile | None = None
    clean_seq: int = 0
    """Of records that were replaced or deleted up to here these files hold nothing."""

    def files(self) -> dict[str, File]:
        """Every file that is named, by its path in the partition's directory."""
        table = self.table
        files = {self.live.name: self.live}
        if self.trained is not None:
            files[self.trained.file.name] = self.trained.file
        for file in (table.vectors, table.documents, table.entries, *table.columns):
            files[f"{table.directory}/{file.name}"] = file
        return files

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
        content = path.read_bytes()
        found = Format.model_validate_json(content).format
        if found != FORMAT:
            raise Mismatch(f"{path} has format {found}, not {FORMAT}")
        return Manifest.model_validate_json(content)
    except ValueError as error:
        raise Mismatch(f"{path}: {error}") from error
