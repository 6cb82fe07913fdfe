"""Processes that servers start, while they serve."""

import subprocess
import sys

STARTS = 200
CODE = f"""
import vitrail.cli
import asyncio, os, grpc, uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    address = f"127.0.0.1:{{server.add_insecure_port('127.0.0.1:0')}}"
    await server.start()

    async def call():
        while True:
            async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    calling = [asyncio.create_task(call()) for _ in range(3)]
    for _ in range({STARTS}):
        started = await asyncio.create_subprocess_exec("true")
        assert await started.wait() == 0, "it died between fork and exec"
    os._exit(0)


uvloop.run(main())
"""


def test_a_process_that_a_busy_server_starts_runs() -> None:
    """gRPC's own handlers of forks have some of them crash before their program begins: a shard's builder, for one."""
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
