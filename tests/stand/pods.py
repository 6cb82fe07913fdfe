"""A pod: a process in a file system and with an address of its own, asked and started again as the kubelet does."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.deploy.rendering import Workload
from tests.stand import containers
from tests.stand.containers import Facts, Probe, Secrets
from vitrail.rpc.process import PARENT, child_environment

ENTER = Path(__file__).with_name("enter.sh")
SYSTEM = [*filter(Path.exists, map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")))]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
START_SECONDS = 3.0
"""For which a container that starts has its turn."""
BACKOFF, LONGEST_BACKOFF = 10.0, 300.0
"""Seconds before a container is started once more after the first time."""


class Host(NamedTuple):
    """What all pods are given by the machine that they run on.

    Attributes:
        directory: For logs and volumes.
        hosts: The file of names.
        secrets: By name.
        images: The source of each image by its tag; that of any other tag is under "".
        turns: To start a container, which takes a core for seconds: one machine stands for the nodes of all pods.
    """

    directory: Path
    hosts: Path
    secrets: Secrets
    images: Mapping[str, Path]
    turns: asyncio.Semaphore

    def source(self, image: str) -> Path:
        _, _, tag = image.rpartition(":")
        return self.images.get(tag, self.images[""])


class Pod:
    """One pod of a workload.

    Attributes:
        started: It has said so once since its process runs.
        ready: When it began to be ready, by the monotonic clock.
        ending: It was told to end.
        phase: As Kubernetes calls it.
    """

    def __init__(
        self, facts: Facts, owner: Workload, revision: str, host: Host, note: Callable[[str, str], None]
    ) -> None:
        self.facts, self.owner, self.revision = facts, owner, revision
        self.container, self.labels = owner.container, owner.labels
        self.started = self.ending = False
        self.ready: float | None = None
        self.phase = "Pending"
        self.restarts = 0
        self._host, self._note = host, note
        self._process: asyncio.subprocess.Process | None = None
        self._running = asyncio.create_task(self._run())
        note(self.name, "is made")

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def ended(self) -> bool:
        """It will not run again."""
        return self.phase in ("Succeeded", "Failed")

    def ready_for(self, seconds: float) -> bool:
        return self.ready is not None and not self.ending and time.monotonic() - self.ready >= seconds

    def check(self) -> None:
        """Raises what the stand itself has failed with."""
        if self._running.done() and not self._running.cancelled():
            self._running.result()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Have its process end; it is started again."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL where it takes longer than its grace period; returns when it is gone."""
        self.ending, self.ready = True, None
        self._note(self.name, "ends")
        seconds = self.owner.pod["spec"].get("terminationGracePeriodSeconds", 30)
        if self._process is None or self.ended:
            self._running.cancel()
        else:
            self.kill(signal.SIGTERM)
            done, _ = await asyncio.wait([self._running], timeout=seconds)
            if not done:
                self._note(self.name, "is killed, since it did not end in time")
                self.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        self._note(self.name, "is gone")

    async def _run(self) -> None:
        policy = self.owner.pod["spec"].get("restartPolicy", "Always")
        pause = 0.0
        while True:
            code = await self._run_once()
            if self.ending:
                return
            self._note(self.name, f"has ended with {code}")
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                self.phase = "Failed" if code else "Succeeded"
                return
            await asyncio.sleep(pause)
            pause = min(max(BACKOFF, 2 * pause), LONGEST_BACKOFF)
            self.restarts += 1

    async def _run_once(self) -> int:
        """The exit code of one run of the container."""
        words, environment = self._told()
        await self._host.turns.acquire()
        asyncio.get_running_loop().call_later(START_SECONDS, self._host.turns.release)
        with (self._made("logs") / f"{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*words, env=environment, stdout=log, stderr=log)
        self.phase = "Running"
        probing = asyncio.create_task(self._probe())
        try:
            return await self._process.wait()
        finally:
            probing.cancel()
            self.started, self.ready, self._process = False, None, None
            with contextlib.suppress(asyncio.CancelledError):
                await probing

    def _told(self) -> tuple[list[str], dict[str, str]]:
        """The command that runs the container, and its environment."""
        source = self._host.source(self.container["image"])
        path = ":".join(str(source / part) for part in ("server", "shard", "client", "protos"))
        own = containers.environment(self.container, self.facts, self._host.secrets)
        image = {
            "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/",
            PARENT: child_environment()[PARENT],
        }
        mounted = [word for mount in self._mounts(source) for word in mount]
        root = self._made("pods", self.name, "root")
        user = str(self.owner.pod["spec"]["securityContext"]["runAsUser"])
        words = ["unshare", "--user", "--map-root-user", "--mount", "sh", str(ENTER), str(root), user, *mounted, "--"]
        return words + containers.command(self.container, own), image | own

    def _mounts(self, source: Path) -> list[tuple[str, str, str]]:
        """What is seen where: the system, then volumes, then the image, whose paths may lie below those of volumes."""
        seen = [(str(path), str(path), "ro") for path in SYSTEM]
        seen += [("/proc", "/proc", "rw"), ("/dev", "/dev", "rw"), (str(self._host.hosts), "/etc/hosts", "ro")]
        seen += [(str(self._host.hosts.with_name("nsswitch.conf")), "/etc/nsswitch.conf", "ro")]
        kept = {each["metadata"]["name"] for each in self.owner.spec.get("volumeClaimTemplates", [])}
        for path, volume in containers.mounts(self.container).items():
            place = ("volumes", self.name, volume) if volume in kept else ("pods", self.name, volume)
            seen.append((str(self._made(*place)), path, "rw"))
        image = {str(path) for path in (source, Path(sys.base_prefix), Path(sys.prefix))}
        return seen + [(path, path, "ro") for path in sorted(image)]

    def _made(self, *parts: str) -> Path:
        directory = self._host.directory.joinpath(*parts)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def _probe(self) -> None:
        if startup := Probe.of(self.container, "startup"):
            await self._ask(startup, until=True)
        self.started = True
        self._note(self.name, "has started")
        async with asyncio.TaskGroup() as asking:
            if liveness := Probe.of(self.container, "liveness"):
                asking.create_task(self._ask(liveness))
            asking.create_task(self._watch_readiness())

    async def _ask(self, probe: Probe, *, until: bool = False) -> None:
        """Ask again and again, or until it answers; who fails too often is killed."""
        failed = 0
        await asyncio.sleep(probe.delay)
        while not self.ending:
            serves = await self._serves(probe)
            if serves and until:
                return
            failed = 0 if serves else failed + 1
            if failed >= probe.failures and not self.ending:
                self._note(self.name, f"is killed: {probe.service} failed {failed} times")
                self.kill()
            await asyncio.sleep(probe.period)

    async def _watch_readiness(self) -> None:
        probe = Probe.of(self.container, "readiness")
        failed = 0
        while not self.ending:
            if probe is None or await self._serves(probe):
                failed = 0
                if self.ready is None and not self.ending:
                    self.ready = time.monotonic()
                    self._note(self.name, "is ready")
            else:
                failed += 1
                if self.ready is not None and failed >= probe.failures:
                    self.ready = None
                    self._note(self.name, "is not ready")
            await asyncio.sleep(probe.period if probe else 1.0)

    async def _serves(self, probe: Probe) -> bool:
        target = f"{self.facts.address}:{probe.port}"
        async with grpc.aio.insecure_channel(target, options=OWN_CONNECTION) as channel:
            try:
                answer = await HealthStub(channel).Check(
                    HealthCheckRequest(service=probe.service), timeout=probe.timeout
                )
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == HealthCheckResponse.SERVING)
