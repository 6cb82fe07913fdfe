"""A shard's life: start following, serve, drain, publish."""

import asyncio
import fcntl
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
import uvloop

from vitrail.rpc import tracing
from vitrail.rpc.address import host_port
from vitrail.rpc.channel import CLIENT_OPTIONS
from vitrail.rpc.logs import configure_logs
from vitrail.rpc.process import (
    collect_less_garbage,
    die_with_parent,
    give_memory_back,
    serve_metrics,
    share_the_interpreter,
)
from vitrail.rpc.server import Server, wait_for_signal
from vitrail.shard import metrics
from vitrail.shard.config import Config
from vitrail.shard.follow import Follower
from vitrail.shard.index import find_device, use_one_thread
from vitrail.shard.life import Life
from vitrail.shard.partitions import Partitions
from vitrail.shard.service import ShardService
from vitrail.shard.snapshots import Snapshots
from vitrail.v1.shard_pb2 import DESCRIPTOR
from vitrail.v1.shard_pb2_grpc import add_ShardServiceServicer_to_server

log = structlog.get_logger()
SERVICE = DESCRIPTOR.services_by_name["ShardService"].full_name


def run(config: Config) -> None:
    """Run a shard until it is told to stop.

    Raises:
        OSError: The data directory or a port is taken.
        ValueError: There is no GPU where one must be.
    """
    die_with_parent()
    give_memory_back()
    collect_less_garbage()
    share_the_interpreter()
    configure_logs(f"shard-{config.index}", config.log_level, config.log_format)
    tracing.start(f"shard-{config.index}")
    use_one_thread()
    uvloop.run(_serve(config))  # a quarter more searches a second than asyncio's own loop


async def _serve(config: Config) -> None:
    config.data.mkdir(parents=True, exist_ok=True)
    with (config.data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another shard uses {config.data}") from error
        with ThreadPoolExecutor(1, "writer") as writer:
            async with grpc.aio.insecure_channel(config.log, options=CLIENT_OPTIONS) as channel:
                await _serve_partitions(config, writer, channel)


async def _serve_partitions(config: Config, writer: ThreadPoolExecutor, channel: grpc.aio.Channel) -> None:
    device = find_device(config.device)
    partitions = Partitions(config.data, config.slots, config.index_bytes, device)
    snapshots = Snapshots(config.snapshots, config.data, partitions, writer) if config.snapshots else None
    follower = Follower(partitions, channel, writer, snapshots)
    life = Life(partitions, writer, follower.rebuild)
    metrics.watch_disk(config.data)
    metrics_port = serve_metrics(config.host, config.metrics_port)
    server = Server(config.host, config.port, reuse_port=config.reuse_port)
    service = ShardService(config, partitions, follower, metrics_port)
    server.add(add_ShardServiceServicer_to_server, service, SERVICE)
    await server.set_serving(False)
    port = await server.start()
    address = host_port(config.host, port)
    log.info("serving", address=address, slots=config.slots, metrics_port=metrics_port, gpu=device is not None)
    tasks = [asyncio.create_task(work.run()) for work in (follower, life, snapshots) if work is not None]
    stopped = asyncio.create_task(wait_for_signal())
    ended = asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    announcing = asyncio.create_task(_serve_when_ready(server, follower))
    await ended
    announcing.cancel()
    if stopped.done():
        log.info("settling", seconds=config.settle_seconds)
        await server.settle(config.settle_seconds)
    log.info("draining")
    await server.drain(config.drain_seconds)
    for task in tasks:
        task.cancel()
    failures = [error for error in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(error, Exception)]
    if snapshots is not None:
        snapshots.close()
    await life.publish_all()
    partitions.close()
    if failures:
        raise failures[0]


async def _serve_when_ready(server: Server, follower: Follower) -> None:
    await follower.ready.wait()
    log.info("caught up")
    await server.set_started()
    await server.set_serving(True)
