"""`vitrail server` and `vitrail shard`: one process of a cluster each. `vitrail migrate`: what goes before them."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.cli.common import fail, needs
from vitrail.rpc.errors import VitrailError

SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""One process a core, one thread a process: left alone, BLAS and OpenMP start one a core in each of them."""

Host = Annotated[str, typer.Option(help="The address to listen on.", envvar="VITRAIL_HOST")]
Port = Annotated[
    int, typer.Option(help="The port to listen on; 0 takes a free one.", envvar="VITRAIL_PORT", min=0, max=65535)
]
MetricsPort = Annotated[
    int,
    typer.Option(
        help="Where to serve Prometheus metrics; 0 takes a free port.", envvar="VITRAIL_METRICS_PORT", min=0, max=65535
    ),
]
Snapshots = Annotated[
    str,
    typer.Option(
        help="Where shards keep snapshots to start from: s3://BUCKET/PATH or what else fsspec knows, or a directory.",
        envvar="VITRAIL_SNAPSHOTS",
    ),
]
ReusePort = Annotated[bool, typer.Option(hidden=True)]
Store = Annotated[
    str,
    typer.Option(
        help="A directory for SQLite, or postgresql://USER@HOST/DATABASE; a password is safer in the environment.",
        envvar="VITRAIL_STORE",
    ),
]


def server(
    store: Store,
    shards: Annotated[
        str,
        typer.Option(
            help="Each shard process, replicas included, with commas: HOST:PORT, dns:NAME:PORT for all addresses of a "
            "name, or file:PATH for the lines of a file.",
            envvar="VITRAIL_SHARDS",
        ),
    ],
    host: Host = "127.0.0.1",
    port: Port = 50051,
    metrics_port: MetricsPort = 9090,
    reuse_port: ReusePort = False,
) -> None:
    """Run a coordinator. Further settings come from the environment (VITRAIL_…)."""
    os.environ.update(SINGLE_THREADED)  # before anything loads BLAS; torch gets its threads by itself
    try:
        from vitrail.server.config import Config
        from vitrail.server.main import run
    except ImportError as error:
        needs("server", error)
    options = {"store": store, "shards": shards, "host": host, "port": port}
    _run(Config, run, **options, metrics_port=metrics_port, reuse_port=reuse_port)


def shard(
    index: Annotated[int, typer.Option(help="Which shard this is, from 0.", envvar="VITRAIL_INDEX")],
    count: Annotated[int, typer.Option(help="How many shards there are.", envvar="VITRAIL_COUNT")],
    log: Annotated[
        str, typer.Option(help="host:port of a coordinator, whose record log is followed.", envvar="VITRAIL_LOG")
    ],
    data: Annotated[
        Path, typer.Option(help="Where partitions are kept; may be deleted at any time.", envvar="VITRAIL_DATA")
    ],
    snapshots: Snapshots = "",
    host: Host = "127.0.0.1",
    port: Port = 50061,
    metrics_port: MetricsPort = 9091,
    reuse_port: ReusePort = False,
) -> None:
    """Run a shard. Further settings come from the environment (VITRAIL_…)."""
    os.environ.update(SINGLE_THREADED)
    try:
        from vitrail.shard.config import Config
        from vitrail.shard.main import run
    except ImportError as error:
        needs("shard", error)
    options = {"index": index, "count": count, "log": log, "data": data, "host": host, "port": port}
    _run(Config, run, **options, snapshots=snapshots, metrics_port=metrics_port, reuse_port=reuse_port)


def migrate(store: Store) -> None:
    """Bring a store's tables to this version, for coordinators that wait for it (VITRAIL_MIGRATE=false)."""
    try:
        from vitrail.server.database import Database
    except ImportError as error:
        needs("server", error)
    try:
        with contextlib.closing(Database(store)) as database:
            database.migrate()
    except (ValueError, OSError, VitrailError) as error:
        fail(str(error))


def _run(config: Callable[..., Any], run: Callable[[Any], None], **options: Any) -> None:
    try:
        run(config(**options))
    except (ValueError, OSError, VitrailError) as error:
        fail(str(error))
