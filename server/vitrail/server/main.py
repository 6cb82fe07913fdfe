"""A coordinator's life: wait for the store, serve, settle, drain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog
import uvloop

from vitrail.rpc import tracing
from vitrail.rpc.address import host_port
from vitrail.rpc.errors import Unavailable
from vitrail.rpc.logs import configure_logs
from vitrail.rpc.process import (
    collect_less_garbage,
    die_with_parent,
    give_memory_back,
    serve_metrics,
    share_the_interpreter,
)
from vitrail.rpc.server import Server, wait_for_signal
from vitrail.rpc.waiting import Waiting
from vitrail.server.cluster import ClusterService
from vitrail.server.collections import CollectionService
from vitrail.server.config import Config
from vitrail.server.database import Database, NotMigrated
from vitrail.server.decode import ImageLimits
from vitrail.server.discovery import find, watch
from vitrail.server.embedders.names import make
from vitrail.server.embedding import Pipeline, Pipelines, Workers
from vitrail.server.fanout import Fanout
from vitrail.server.journal import Journal
from vitrail.server.log import LogService
from vitrail.server.purging import Purging
from vitrail.server.quarantine import Quarantine
from vitrail.server.queries import Queries
from vitrail.server.records import RecordService
from vitrail.server.reporting import Reporting
from vitrail.server.service import SearchService
from vitrail.server.store import Store
from vitrail.server.topology import Topology
from vitrail.v1 import cluster_pb2, collection_pb2, log_pb2, record_pb2, search_pb2
from vitrail.v1.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from vitrail.v1.collection_pb2_grpc import add_CollectionServiceServicer_to_server
from vitrail.v1.log_pb2_grpc import add_LogServiceServicer_to_server
from vitrail.v1.record_pb2_grpc import add_RecordServiceServicer_to_server
from vitrail.v1.search_pb2_grpc import add_SearchServiceServicer_to_server

log = structlog.get_logger()

# The longest that a coordinator waits for all shards, once there is one, before it asks for traffic.
READY_SECONDS = 5.0
# How often it looks whether what it waits for is there.
LOOK_SECONDS = 0.5
# What malloc may keep for the layers of a model: from the system, with 4,900 page faults an image, embedding in bulk
# took 18 ms of CPU an image, not 12. The largest layer, and all of a batch.
LAYER_BYTES, LAYERS_BYTES = 32 << 20, 256 << 20


def run(config: Config) -> None:
    """Run a coordinator until it is told to stop.

    Raises:
        ValueError: The URL of the store cannot be read.
        OSError: The directory of the store or a port is taken.
        Unavailable: The directory of the store holds what cannot be read, and no shard tells what was in it.
        FailedPrecondition: The store is of a newer version that this one cannot use.
    """
    die_with_parent()
    give_memory_back(LAYER_BYTES, LAYERS_BYTES)
    collect_less_garbage()
    share_the_interpreter()
    configure_logs("coordinator", config.log_level, config.log_format)
    tracing.start("coordinator")
    uvloop.run(_serve(config))  # a quarter more searches a second than asyncio's own loop


async def _serve(config: Config) -> None:
    stopped = asyncio.create_task(wait_for_signal())
    metrics_port = serve_metrics(config.host, config.metrics_port)
    journal = Journal(Store(Database(config.store, migrates=config.migrate)))
    topology = Topology((), lambda: journal.catalog.wanted_shards)
    loading = asyncio.create_task(_load_catalog(journal, topology, config.shards))
    try:
        await asyncio.wait([stopped, loading], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            loading.result()
            await _serve_calls(config, journal, topology, metrics_port, stopped)
    finally:
        loading.cancel()
        await topology.close()
        journal.close()


async def _serve_calls(
    config: Config, journal: Journal, topology: Topology, metrics_port: int, stopped: asyncio.Task[str]
) -> None:
    async with _parts(config, journal, topology, host_port(config.host, metrics_port)) as (server, tasks):
        await server.set_serving(False)
        port = await server.start()  # calls are answered from now on: shards need the log to become ready
        await server.set_started()
        log.info("started", address=host_port(config.host, port), shards=config.shards, metrics_port=metrics_port)
        announcing = asyncio.create_task(_announce(server, topology))
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        if stopped in done:
            log.info("settling", seconds=config.settle_seconds)
            await server.settle(config.settle_seconds)
        log.info("draining")
        journal.news.end()  # the streams of the log end by themselves, and are not waited for
        await server.drain(config.drain_seconds)
        for task in done - {stopped}:
            task.result()  # a part that ended by itself has failed


async def _announce(server: Server, topology: Topology) -> None:
    """Ask for traffic once one shard is ready, and the others are or have been waited for long enough."""
    waiting = Waiting("shards")
    while not await topology.wait_any(LOOK_SECONDS):
        failures = [f"{replica.address}: {replica.failure}" for replica in topology.replicas]
        waiting.because("; ".join(failures) or "no shard process is found")
    waiting.over()
    await topology.wait_ready(READY_SECONDS)
    await server.set_serving(True)
    log.info("serving")


@contextlib.asynccontextmanager
async def _parts(
    config: Config, journal: Journal, topology: Topology, metrics_address: str
) -> AsyncIterator[tuple[Server, list[asyncio.Task[None]]]]:
    """The parts of a coordinator put together, with the tasks that run as long as it does."""
    workers = Workers(config.threads)
    limits = ImageLimits(bytes=config.max_image_bytes, pixels=config.max_image_pixels)
    embedders = [await asyncio.to_thread(make, name, threads=config.threads) for name in config.embedders]
    pipelines = Pipelines(
        [Pipeline(each, workers, limits, batch=config.embed_batch, capacity=config.queue) for each in embedders]
    )
    fanout = Fanout(topology, batch=config.search_batch, capacity=config.queue)
    queries = Queries(pipelines, journal)
    server = Server(
        config.host, config.port, reuse_port=config.reuse_port, connection_seconds=config.connection_seconds
    )
    timeout = config.default_timeout
    purging = Purging(journal, topology, 3600 * config.horizon_hours)
    for register, servicer, module, name in (
        (
            add_SearchServiceServicer_to_server,
            SearchService(journal, topology, queries, fanout, pipelines, timeout),
            search_pb2,
            "Search",
        ),
        (
            add_RecordServiceServicer_to_server,
            RecordService(journal, pipelines, topology, timeout),
            record_pb2,
            "Record",
        ),
        (
            add_CollectionServiceServicer_to_server,
            CollectionService(journal, pipelines, topology, timeout, metrics_address, purging),
            collection_pb2,
            "Collection",
        ),
        (add_ClusterServiceServicer_to_server, ClusterService(journal, topology), cluster_pb2, "Cluster"),
        (add_LogServiceServicer_to_server, LogService(journal, lambda: fanout.batcher.is_busy), log_pb2, "Log"),
    ):
        server.add(register, servicer, module.DESCRIPTOR.services_by_name[f"{name}Service"].full_name)
    work = [
        topology.run(),
        Quarantine(journal, topology).run(),
        watch(config.shards, topology.use),
        fanout.batcher.run(),
        pipelines.run(),
        journal.batcher.run(),
        purging.run(),
        Reporting(journal, topology).run(),
    ]
    if journal.store.is_shared:
        work.append(journal.watch(topology.catalog))
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield server, tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers.close()


async def _load_catalog(journal: Journal, topology: Topology, sources: Sequence[str]) -> None:
    """Read the catalog; while the store is away, what the shards know of it will do to search by.

    Raises:
        Unavailable: What is in the directory cannot be used: no other process could make it so, since this one has it.
    """
    store, migration = Waiting("store"), Waiting("migration")
    while True:
        try:
            await journal.load_catalog()
        except NotMigrated as error:
            if not journal.store.is_shared:
                raise
            store.over()
            migration.because(str(error))
        except Unavailable as error:
            if await _ask_shards(journal, topology, sources):
                log.warning("the store is away: searching what the shards hold", why=str(error))
                break
            if not journal.store.is_shared:
                raise
            store.because(str(error))
        else:
            break
        await asyncio.sleep(LOOK_SECONDS)
    store.over()
    migration.over()


async def _ask_shards(journal: Journal, topology: Topology, sources: Sequence[str]) -> bool:
    """Take the catalog that shards know; returns whether they know one."""
    with contextlib.suppress(OSError):  # they cannot be looked for now
        topology.use(await find(sources))
    await topology.probe_all()
    seq, collections = topology.catalog()
    if seq:
        journal.catalog.replace(seq, collections, wanted_shards=0)
    return seq > 0
