"""The chart, installed on this machine: its pods are processes, its store a PostgreSQL."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from tests.deploy.rendering import RELEASE, Object, render
from tests.postgres import Postgres, running_postgres
from tests.stand.cluster import Cluster, Event
from tests.stand.network import Network
from tests.stand.pods import Host, Pod

HERE = Path(__file__).parents[2]
VALUES = Path(__file__).with_name("values.yaml")
ENDPOINT_SECONDS = 0.5
"""Until an endpoint that comes or goes is seen."""
AT_A_TIME = 2
"""Pods that start: as many as a small machine has cores."""
PATIENCE = 180.0

T = TypeVar("T")


class Stand:
    """Nothing runs until `apply`. All else is called from one thread, and pods are looked at from there, too.

    Args:
        directory: For logs, volumes and the store.
        images: Sources by tag, beside this one's.
        cached: Seconds for which answers to names are kept.
    """

    def __init__(self, directory: Path, *, images: Mapping[str, Path] | None = None, cached: float = 0.0) -> None:
        self.values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
        self.objects: list[Object] = []
        self.postgres: Postgres
        self.directory = directory
        self._network = Network(directory / "network", delay=ENDPOINT_SECONDS, cached=cached)
        store = f"postgresql://postgres@{RELEASE}-postgres:5432/"
        self._secrets = {"vitrail-store": {"url": store}}
        host = Host(
            directory, self._network.hosts, self._secrets, {**(images or {}), "": HERE}, asyncio.Semaphore(AT_A_TIME)
        )
        self._cluster = Cluster(host, self._network)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ended = asyncio.Event()
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self.postgres = self._closing.enter_context(running_postgres())
        self._secrets["vitrail-store"]["url"] += self.postgres.new_database().partition("?")[0].rpartition("/")[2]
        self._closing.callback(self._network.close)
        self._thread.start()
        socket = str(self.postgres.directory / ".s.PGSQL.5432")
        self._do(self._network.forward(f"{RELEASE}-postgres", 5432, [socket]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._closing.close()

    @property
    def address(self) -> str:
        """Where callers reach it."""
        return f"{self._network.cluster_address(RELEASE)}:50051"

    @property
    def events(self) -> Sequence[Event]:
        return tuple(self._cluster.events)

    def address_of(self, name: str) -> str:
        """An address of its own for what runs beside the chart."""
        return self._network.cluster_address(name)

    def pods(self, component: str = "") -> list[Pod]:
        """Pods that there are, of all components or of one, by name."""
        found = sorted(self._cluster.pods.items())
        return [pod for _, pod in found if component in ("", pod.owner.component)]

    def apply(self, changes: Mapping[str, Any] | None = None, *, keep: int = 0) -> None:
        """`helm upgrade --install` with some values changed, beside those of before.

        Args:
            changes: Values that replace others of their name, one level deep.
            keep: So many pods of each workload stay as they were, until the next call.
        """
        for name, value in (changes or {}).items():
            before = self.values.get(name)
            self.values[name] = {**before, **value} if isinstance(before, dict) else value
        self.objects = render(self.values)
        self._do(self._cluster.apply(self.objects, keep))

    def uninstall(self) -> None:
        """`helm uninstall`: all pods end in order."""
        self._do(self._cluster.apply([]))
        self.wait(lambda: not self.pods())

    def settle(self, patience: float = PATIENCE) -> float:
        """Wait until all is as it was applied. Returns how many seconds that took."""
        began = time.monotonic()
        self.wait(self._cluster.is_settled, patience)
        return time.monotonic() - began

    def wait(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is true; fails with what pods have said last."""
        until = time.monotonic() + patience
        while not condition():
            assert self._thread.is_alive(), "the cluster has failed"
            assert time.monotonic() < until, f"never: {condition}\n{self.last_words()}"
            time.sleep(0.1)

    def kill(self, pod: Pod) -> None:
        """Kill -9 its process, which is started again."""
        self._loop.call_soon_threadsafe(pod.kill)

    def keep_away(self, names: Sequence[str]) -> None:
        """No node takes these pods, or those of these workloads, until `let_back`; where they run, they are killed."""
        self._cluster.away.update(names)
        for pod in self.pods():
            if pod.name in names or pod.owner.name in names:
                self.kill(pod)

    def let_back(self) -> None:
        self._cluster.away.clear()

    def last_words(self) -> str:
        """The state of each pod, and the end of its log."""
        found = []
        for pod in self.pods():
            state = f"{pod.phase}, started {pod.started}, ready {pod.ready is not None}, {pod.restarts} restarts"
            found += [f"{pod.name} ({pod.facts.address}): {state}", *(f"    {line}" for line in self.log(pod)[-5:])]
        return "\n".join(found)

    def log(self, pod: Pod) -> list[str]:
        """The lines that it wrote."""
        path = self.directory / "logs" / f"{pod.name}.log"
        return path.read_text().splitlines() if path.exists() else []

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _run(self) -> None:
        """In a thread that lives as long as the pods: Linux ends them with it."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        running = asyncio.create_task(self._cluster.run())
        await asyncio.wait([running, asyncio.create_task(self._ended.wait())], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            await running
