"""Decoding a file in a process of its own, which may take so much memory and no more.

A few bytes of Parquet may stand for gigabytes, in ways that its footer need not tell (833 bytes for one list of 2^27
floats), and a damaged footer can make Arrow abort. So who decodes is a child, run as a script: this file without the
rest of the package. Strings and bytes leave it as dictionaries, however they are kept in the file; written out, a
dictionary with one long string to which a million rows point would be another such bomb.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MEMORY_BYTES = 2 * 1024**3
READ_AHEAD_BYTES = 1024 * 1024


def decoded(path: Path, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a file, so many rows at a time.

    Raises:
        ValueError: They cannot be decoded, or not within the memory that there is for it.
    """
    command = [sys.executable, "-P", __file__, str(MEMORY_BYTES), str(path), str(rows), *columns]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            yield from _received(child)
        except BaseException:
            child.kill()  # nobody wants the rest
            raise


def _received(child: "subprocess.Popen[bytes]") -> Iterator[pa.RecordBatch]:
    assert child.stdout is not None
    assert child.stderr is not None
    broken: Exception | None = None
    try:
        with pa.ipc.open_stream(child.stdout) as batches:
            yield from batches
    except (pa.ArrowException, OSError) as error:  # cut off in the middle
        broken = error
    said = child.stderr.read().decode(errors="replace").strip()
    if child.wait() or broken:
        raise ValueError(said.rpartition("\n")[2] or f"decoding ended with {child.returncode}") from broken


def main(memory: str, path: str, rows: str, *columns: str) -> None:
    """Write the batches to standard output, as Arrow's stream; what goes wrong is the last line of standard error."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    try:
        with _open(path) as file, ExitStack() as stack:
            out: pa.ipc.RecordBatchStreamWriter | None = None
            for batch in _batches(file, int(rows), columns):
                out = out or stack.enter_context(pa.ipc.new_stream(sys.stdout.buffer, batch.schema))
                out.write_batch(batch)
            if out is None:
                pa.ipc.new_stream(sys.stdout.buffer, pa.schema([])).close()
    except MemoryError:
        sys.exit(f"it takes more than {int(memory):,} bytes to decode")
    except Exception as error:  # whatever Arrow raises on hostile bytes
        # Short, since it is read only after all of the other pipe.
        sys.exit(" ".join(str(error).split())[:1000] or type(error).__name__)


def _batches(file: pq.ParquetFile, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):  # Arrow reads no dictionaries in lists across two of them
        yield from file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def _open(path: str) -> pq.ParquetFile:
    with pq.ParquetFile(path) as file:
        columns = map(file.schema.column, range(file.metadata.num_columns))
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        metadata = file.metadata
    return pq.ParquetFile(
        path, metadata=metadata, read_dictionary=texts, pre_buffer=False, buffer_size=READ_AHEAD_BYTES
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
