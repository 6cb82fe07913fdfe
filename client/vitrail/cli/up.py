"""`vitrail up`: a whole cluster on this machine, one process a part, until it is told to stop."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.common import fail
from vitrail.cli.processes import SINGLE_THREADED, Snapshots


def up(
    shards: Annotated[
        int | None,
        typer.Option(help="How many shards, each one process. As many as before, at first 2.", min=1, max=64),
    ] = None,
    replicas: Annotated[int, typer.Option(help="Processes for each shard, all with the same.", min=1, max=8)] = 1,
    data: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("vitrail-data"),
    store: Annotated[
        str | None,
        typer.Option(
            help="postgresql://USER@HOST/DATABASE, or a directory; SQLite among the data where not given.",
            envvar="VITRAIL_STORE",
        ),
    ] = None,
    snapshots: Snapshots = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The coordinator's port; 0 takes a free one.", min=0, max=65535)] = 50051,
    metrics_port: Annotated[
        int, typer.Option(help="The coordinator's metrics; shard process k has this + 1 + k. 0: free ports.", min=0)
    ] = 9090,
) -> None:
    """Run a coordinator and its shards; prints `ready HOST:PORT` once they serve what the store holds."""
    os.environ.update(SINGLE_THREADED)
    try:
        from vitrail.cli.cluster import Cluster, StartFailed
        from vitrail.rpc.process import die_with_parent
    except ImportError as error:
        fail(f"this needs more packages ({error.name} is missing): pip install 'vitrail[all]'")
    die_with_parent()  # where whoever started this asks for it, as the demo does
    try:
        cluster = Cluster(
            data=data,
            host=host,
            port=port,
            metrics_port=metrics_port,
            shards=shards,
            replicas=replicas,
            store=store,
            snapshots=snapshots,
        )
        asyncio.run(cluster.run(on_ready=_say_ready))
    except (StartFailed, OSError) as error:
        fail(str(error))


def _say_ready(address: str) -> None:
    sys.stdout.write(f"ready {address}\n")
    sys.stdout.flush()
