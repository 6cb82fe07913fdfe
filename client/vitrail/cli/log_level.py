"""`vitrail log-level`: how much one process writes into its log."""

from typing import Annotated

import grpc
import typer

from vitrail.cli.common import DEFAULT_ADDRESS, Address, fail
from vitrail.v1.process_pb2 import GetLogLevelRequest, SetLogLevelRequest
from vitrail.v1.process_pb2_grpc import ProcessServiceStub

CALL_SECONDS = 10.0


def log_level(
    level: Annotated[str, typer.Argument(help="debug, info, warning or error; only shown where left out.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Show or change how much a process logs, a coordinator or a shard, until it ends."""
    try:
        with grpc.insecure_channel(address) as channel:
            process = ProcessServiceStub(channel)
            if level:
                process.SetLogLevel(SetLogLevelRequest(level=level), timeout=CALL_SECONDS)
            typer.echo(process.GetLogLevel(GetLogLevelRequest(), timeout=CALL_SECONDS).level)
    except grpc.RpcError as error:
        fail(f"{address}: {error.details()}")
