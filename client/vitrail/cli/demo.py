"""`make demo`: Vitrail from end to end on this machine, in about half a minute.

    python -m vitrail.cli.demo [--images FOLDER]

A coordinator and two shards start in a temporary directory, as `vitrail up` starts them. Photos, and squares cut
from them, become records; the shards train their IVF-PQ partitions; then edited copies of some records, which were
never indexed, are searched for. What is printed as recall@10 is the share of these queries that had among ten hits
the record they were made from, or one of the place that they show (see `demo_photos`).
"""

import io
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from PIL import Image, ImageOps

from vitrail.cli import demo_photos, gallery
from vitrail.cli.common import fail, print_table
from vitrail.cli.demo_photos import Place
from vitrail.cli.edits import EDITS, Edit
from vitrail.client import Client, CollectionStats, ItemError, PartitionStats, SearchResult, VitrailError

SHARDS = 2
COLLECTION = "demo"
ORIGINALS = 24
"""Records that queries are made from, with every edit of each."""
TOP_K = 10
RECALL = 0.9
"""What the photos from the packages must reach. For photos of the user's own it is a finding, not a condition."""

FEWEST_RECORDS = 200
TRAIN_SHARE, TRAIN_AT = 0.4, (39, 10_000)
"""A shard has about half of the records: it trains once most of them are there."""

TRAIN_SECONDS = 120.0
TAIL = 0.1
"""The share of a shard's records that may still be searched beside its trained index: a few always are, since rows
go into it in groups."""
STOP_SECONDS = 30.0

OUTPUT = Path("demo-out")
ROWS = 3
"""Queries of each edit in the gallery."""
MISSES = 10


class Trial(NamedTuple):
    """A query whose answer is known."""

    edit: Edit
    original: str
    image: bytes


class Outcome(NamedTuple):
    """What came back for a query: for each hit, whether it is of the right place."""

    trial: Trial
    right: Sequence[bool]
    result: SearchResult


class Summary(NamedTuple):
    """The last line."""

    records: int
    recall: float
    coverage: float
    shards: int
    trained: bool

    def __str__(self) -> str:
        return (
            f"demo: records={self.records} recall@{TOP_K}={self.recall:.3f} coverage={self.coverage:.3f} "
            f"shards={self.shards} trained={str(self.trained).lower()}"
        )

    def problems(self, least_recall: float) -> str:
        """What is not as it must be; empty where all is well."""
        wrong = {
            f"recall@{TOP_K} is below {least_recall}": self.recall < least_recall,
            "a part of the records was not searched": self.coverage < 1.0,
            f"not all of {SHARDS} shards answered": self.shards < SHARDS,
            "not every partition is trained": not self.trained,
        }
        return ", ".join(problem for problem, is_so in wrong.items() if is_so)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your own photos, instead of those in packages.")
    ] = None,
) -> None:
    """Start a cluster, index photos, search for edited copies of them, and show what was found."""
    _end_in_order_when_told_to()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="vitrail-demo-", ignore_cleanup_errors=True) as directory:
            summary = _run(Path(directory), images)
    except demo_photos.MissingPackage as error:
        fail(f"the photos of the demo come with {error}, which is missing: pip install 'vitrail[all,demo]'")
    except (VitrailError, OSError) as error:
        fail(str(error))
    _say(f"done in {time.monotonic() - began:.0f} s")
    problems = summary.problems(RECALL if images is None else 0.0)
    if problems:
        typer.echo(f"error: {problems}", err=True)
    _say(str(summary))
    raise typer.Exit(1 if problems else 0)


def _run(directory: Path, images: Path | None) -> Summary:
    _say(f"starting a coordinator and {SHARDS} shards")
    with _cluster(directory / "cluster") as address:
        folder = directory / "photos"
        places = _write_records(folder, images)
        with Client(address()) as client:
            stats = _index(client, folder, len(places))
            trials = list(make_trials(folder, places))
            if not trials:
                fail("there is nothing to see in any of these photos")
            outcomes = _search(client, trials, places)
            _print_recall(outcomes)
            _write_galleries(client, outcomes, places)
            return _summarise(stats, outcomes)


@contextmanager
def _cluster(data: Path) -> Iterator[Callable[[], str]]:
    """Run `vitrail up`; gives a function that waits until it is ready, and returns its address."""
    try:
        from vitrail.rpc.process import child_environment
    except ImportError as error:
        fail(f"this needs more packages ({error.name} is missing): pip install 'vitrail[all,demo]'")
    data.mkdir()
    log = data / "up.log"
    options = {"shards": SHARDS, "port": 0, "metrics-port": 0, "data": data}
    arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    with (
        log.open("wb") as errors,
        _ended(
            subprocess.Popen(
                [sys.executable, "-m", "vitrail.cli.main", "up", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=child_environment(),
            )
        ) as process,
    ):

        def address() -> str:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("ready "):
                fail(f"the cluster did not start: {_last_line(log)}")
            return line.split()[1]

        yield address


@contextmanager
def _ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """A process that is ended on the way out: asked first, and killed where that takes long or is interrupted."""
    with process:
        try:
            yield process
        finally:
            try:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            finally:
                process.kill()


def _write_records(folder: Path, images: Path | None) -> dict[str, Place]:
    """Write the photos and their squares as files; gives the place of each by its path, which becomes its id."""
    photos = demo_photos.packaged_photos() if images is None else demo_photos.photos_of(images)
    places = dict(demo_photos.write_photos(photos, folder))
    whole = len(places)
    if whole < demo_photos.ENOUGH_PHOTOS:
        places |= dict(demo_photos.write_squares(places, folder, demo_photos.RECORDS - whole))
    if len(places) < FEWEST_RECORDS:
        fail(f"only {len(places)} records can be made of {whole} photos; {FEWEST_RECORDS} are needed")
    unread = f" ({len(photos) - whole} files cannot be read)" if whole < len(photos) else ""
    _say(f"{whole:,} photos{unread} and {len(places) - whole:,} squares cut from them")
    return places


def _index(client: Client, folder: Path, records: int) -> CollectionStats:
    """Index a folder and wait until every shard has trained on it."""
    least, most = TRAIN_AT
    train_at = min(max(round(TRAIN_SHARE * records), least), most)
    client.create_collection(COLLECTION, train_at=train_at, thumbnails=True)
    report = client.index(COLLECTION, folder, progress=True)
    if report.failed:
        fail(f"{len(report.failed)} records were refused, {report.failed[0].path}: {report.failed[0].message}")
    _say(f"indexed {report.indexed:,} in {report.seconds:.1f} s ({report.indexed / report.seconds:.0f}/s)")
    began = time.monotonic()
    stats = _wait_until_trained(client)
    _say(f"trained {time.monotonic() - began:.1f} s later")
    print_table(
        ["shard", "state", "records", "tail", "index"],
        [(shard.shard, shard.state, shard.records, shard.tail, shard.recipe) for shard in stats.partitions],
    )
    return stats


def _wait_until_trained(client: Client) -> CollectionStats:
    """Wait until every shard has all records in a trained index; gives up in the end, and says what there is."""
    until = time.monotonic() + TRAIN_SECONDS
    stats = client.stats(COLLECTION)
    while not all(is_trained(shard, stats.seq) for shard in stats.partitions) and time.monotonic() < until:
        time.sleep(0.1)
        stats = client.stats(COLLECTION)
    return stats


def is_trained(shard: PartitionStats, seq: int) -> bool:
    """Whether a shard has applied the log up to `seq`, and searches that in its trained index."""
    return shard.seq >= seq and shard.state == "trained" and shard.tail <= TAIL * shard.records


def make_trials(folder: Path, places: Mapping[str, Place]) -> Iterator[Trial]:
    """Make every edit of some records, taken from one photo after another."""
    for original in islice(_telling(folder, demo_photos.spread(places)), ORIGINALS):
        with Image.open(folder / original) as photo:
            for edit in EDITS:
                yield Trial(edit, original, edit.jpeg(photo))


def _telling(folder: Path, names: Iterator[str]) -> Iterator[str]:
    """Those in which there is something to see."""
    for name in names:
        with Image.open(folder / name) as photo:
            if not demo_photos.is_plain(photo):
                yield name


def _search(client: Client, trials: Sequence[Trial], places: Mapping[str, Place]) -> list[Outcome]:
    began = time.monotonic()
    results = client.search_batch(COLLECTION, images=[trial.image for trial in trials], top_k=TOP_K)
    seconds = time.monotonic() - began
    _say(f"{len(trials)} edited copies searched for in {seconds:.1f} s ({len(trials) / seconds:.0f}/s)")
    return [judge(trial, result, places) for trial, result in zip(trials, results, strict=True)]


def judge(trial: Trial, result: SearchResult | ItemError, places: Mapping[str, Place]) -> Outcome:
    """Tell for each hit whether it is the record that the query was made from, or one of the place that it shows."""
    if isinstance(result, ItemError):
        fail(f"{trial.edit.name} of {trial.original}: {result.message}")
    shown = places[trial.original].middle(trial.edit.shows)
    right = [hit.id == trial.original or shown.same(places[hit.id]) for hit in result.hits]
    return Outcome(trial, right, result)


def recall(outcomes: Sequence[Outcome], hits: int = TOP_K) -> float:
    """The share of queries that found their place among so many hits."""
    return statistics.fmean(any(outcome.right[:hits]) for outcome in outcomes)


def _print_recall(outcomes: Sequence[Outcome]) -> None:
    rows = [_recall_row(edit.name, edit.strength, _of(edit, outcomes)) for edit in EDITS]
    print_table(
        ["edit", "strength", "queries", "recall@1", f"recall@{TOP_K}"], [*rows, _recall_row("all", "", outcomes)]
    )


def _recall_row(name: str, strength: str, outcomes: Sequence[Outcome]) -> tuple[object, ...]:
    return name, strength, len(outcomes), f"{recall(outcomes, 1):.3f}", f"{recall(outcomes):.3f}"


def _of(edit: Edit, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.trial.edit is edit]


def _summarise(stats: CollectionStats, outcomes: Sequence[Outcome]) -> Summary:
    results = [outcome.result for outcome in outcomes]
    return Summary(
        records=stats.records,
        recall=recall(outcomes),
        coverage=min(result.coverage.fraction for result in results),
        shards=min(result.coverage.shards_searched for result in results),
        trained=all(result.index.trained for result in results),
    )


def _write_galleries(client: Client, outcomes: Sequence[Outcome], places: Mapping[str, Place]) -> None:
    """Write a page with some queries of each edit and with what was missed, and a picture with one of each edit."""
    OUTPUT.mkdir(exist_ok=True)
    shown = choose_shown(outcomes)
    missed = [outcome for outcome in outcomes if outcome not in shown and not any(outcome.right)]
    rows = [_gallery_row(client, outcome.trial, places) for outcome in (*shown, *missed[:MISSES])]
    title = "Vitrail: edited photos, and what was found for them"
    gallery.write(OUTPUT / "gallery.html", rows, title=title)
    gallery.write(OUTPUT / "gallery.png", rows[: len(shown) : ROWS], title=title)
    _say(f"gallery: {OUTPUT / 'gallery.html'} (as one picture: {OUTPUT / 'gallery.png'})")


def choose_shown(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Some queries of each edit, each made from another record, so that many photos are seen."""
    by_edit = [_of(edit, outcomes) for edit in EDITS]
    return [made[(place + row * len(EDITS)) % len(made)] for place, made in enumerate(by_edit) for row in range(ROWS)]


def _gallery_row(client: Client, trial: Trial, places: Mapping[str, Place]) -> gallery.Row:
    """Search again for the thumbnails, which would be much for all queries."""
    result = client.search(COLLECTION, image=trial.image, top_k=TOP_K, include=("thumbnail",))
    hits = [
        gallery.Picture(f"{hit.score:.3f}\n{hit.id}", _filling(hit.thumbnail), right)
        for hit, right in zip(result.hits, judge(trial, result, places).right, strict=True)
    ]
    return gallery.Row(f"{trial.edit.name}: {trial.edit.strength} · {trial.original}", _filling(trial.image), hits)


def _filling(image: bytes | None) -> bytes | None:
    """The same picture as large as the gallery shows it: squares of several scales are then told apart by content."""
    if image is None:
        return None
    with Image.open(io.BytesIO(image)) as picture:
        larger = ImageOps.contain(picture, (gallery.SIDE, gallery.SIDE))
    out = io.BytesIO()
    larger.save(out, "JPEG", quality=90)
    return out.getvalue()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _end_in_order_when_told_to() -> None:
    """Clean up after SIGTERM and a closed terminal as after Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app()
