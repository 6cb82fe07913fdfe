"""`vitrail shards`: the shard processes, and how many shards serve."""

from typing import Annotated

import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, AsJson, connected, print_json, print_table
from vitrail.client import ShardProcess

COLUMNS = ["layout", "shard", "state", "records", "applied", "behind", "address", "metrics", "version"]


def shards(
    count: Annotated[
        int | None, typer.Option("--set", help="Have so many serve, once their processes have caught up.", min=1)
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show every shard process, which layout it belongs to, and how far behind the log it is."""
    with connected(address) as client:
        if count is not None:
            client.set_shards(count)
        found = client.shards()
    if as_json:
        print_json(found)
        return
    wanted = f", {found.wanted} are wanted" if found.wanted not in (0, found.serving) else ""
    print_table(
        COLUMNS, [_row(each, found.serving) for each in found.processes], title=f"{found.serving} shards serve{wanted}"
    )


def _row(process: ShardProcess, serving: int) -> list[object]:
    place = (f"of {process.shards}", process.shard) if process.shards else ("", "")
    state = process.failure or ("serves" if process.shards == serving else "ready")
    applied = f"{100 * (process.head - process.behind) // process.head if process.head else 100}%"
    where = [process.address, process.metrics_address, process.version]
    return [*place, state, process.records, applied, process.behind, *where]
