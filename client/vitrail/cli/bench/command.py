"""`vitrail bench`: the command."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from vitrail.cli.bench import BenchFailed, report
from vitrail.cli.bench.figures import Figures
from vitrail.cli.bench.given import Given, open_files
from vitrail.cli.catalog import MetricName
from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, fail, needs, print_json
from vitrail.client import Client, VitrailError

CALL_SECONDS = 600.0


def bench(
    vectors: Annotated[
        Path, typer.Option(help="A .npy file of floats [n, d] to load.", exists=True, dir_okay=False, readable=True)
    ],
    queries: Annotated[
        Path | None,
        typer.Option(
            help="A .npy file of queries [q, d]; the last of the vectors, held out, where not given.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    metric: Annotated[MetricName, typer.Option(help="How vectors compare.")] = MetricName.cosine,
    count: Annotated[int | None, typer.Option(help="Load only the first so many vectors.", min=1)] = None,
    seconds: Annotated[float, typer.Option(help="For each rate.", min=0.1)] = 5.0,
    callers: Annotated[str, typer.Option(help="How many ask at the same time, with commas.")] = "1,4,16,64",
    batch: Annotated[int, typer.Option(help="Queries of one call of a batch.", min=2, max=1000)] = 100,
    plot: Annotated[Path | None, typer.Option(help="Draw recall against throughput into this .png.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the collection at the end.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Measure a server with your vectors: recall, rates, latencies, memory, beside FAISS in this process.

    The server may be anywhere; the benchmark makes a collection of its own there, and deletes it at the end. Run it
    on a machine that is otherwise idle: FAISS in process has the cores of this one.
    """
    _clean_up_when_told_to_end()
    counts = callers_of(callers)
    if plot and (plot.suffix.lower() != ".png" or not plot.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{plot} is no .png in a folder that is there", param_hint="--plot")
    try:
        given = open_files(vectors, queries, metric.value, count)
        figures = measured(given, address, plot, seconds=seconds, callers=counts, batch=batch, keep=keep)
    except (BenchFailed, VitrailError, OSError) as error:
        fail(str(error))
    if as_json:
        print_json(figures)
    else:
        report.show(figures)


def measured(given: Given, address: str, plot: Path | None, **options: Any) -> Figures:
    """Measure, and draw it where wanted; the options are those of `run.Options`.

    Raises:
        BenchFailed: There is nothing to measure.
        VitrailError: The server refuses.
        OSError: A file cannot be read or written.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before faiss: threads that spin take the server's cores
    try:
        from vitrail.cli.bench import chart
        from vitrail.cli.bench.run import Options, run
    except ImportError as error:
        needs("bench", error)
    with Client(address, timeout=CALL_SECONDS) as client:
        figures = run(client, given, Options(**options))
    if plot:
        chart.draw(figures, plot)
    return figures


def callers_of(listed: str) -> list[int]:
    """Read numbers of callers with commas between."""
    try:
        numbers = [int(word) for word in listed.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{listed!r} is no list of numbers with commas", param_hint="--callers") from None
    if min(numbers) < 1 or max(numbers) > 10_000:
        raise typer.BadParameter("from 1 to 10,000 callers", param_hint="--callers")
    return numbers


def _clean_up_when_told_to_end() -> None:
    """SIGTERM unwinds as Ctrl-C does, so that the collection is deleted."""

    def end(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
