"""The command `vitrail`."""

from typing import Annotated

import typer

from vitrail.cli import catalog
from vitrail.cli.bench.command import bench
from vitrail.cli.dataset import dataset
from vitrail.cli.embed import embed
from vitrail.cli.evaluate.command import evaluate
from vitrail.cli.index import index
from vitrail.cli.log_level import log_level
from vitrail.cli.moving import export, import_
from vitrail.cli.plan.command import plan
from vitrail.cli.processes import migrate, server, shard
from vitrail.cli.project import project
from vitrail.cli.purge import purge
from vitrail.cli.quantize import quantize
from vitrail.cli.search import search
from vitrail.cli.shards import shards
from vitrail.cli.stats import stats
from vitrail.cli.train import train
from vitrail.cli.up import up
from vitrail.cli.versions import reembed, versions
from vitrail.rpc.protocol import VERSION


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """An image search engine: photos in, the most similar photos out."""


# Commands of a client.
app.command()(index)
app.command()(search)
app.command()(embed)
app.command()(export)
app.command("import")(import_)
app.command()(purge)
app.command()(stats)
app.command()(versions)
app.command()(reembed)
app.command()(shards)
app.command("log-level")(log_level)
app.command()(bench)
app.command()(plan)
app.add_typer(catalog.app, name="collections")

# Commands that run processes of the cluster, or a model: these import their extras when they run.
app.command()(up)
app.command()(project)
app.command()(quantize)
app.command()(evaluate)
app.command()(dataset)
app.command()(train)
app.command()(server)
app.command()(shard)
app.command()(migrate)

if __name__ == "__main__":
    app()
