"""Kubernetes as far as the chart needs it: objects are applied, and pods come and go until all is as they say."""

import asyncio
import time
from typing import NamedTuple

from tests.deploy.rendering import Object, Workload, of_kind, workloads
from tests.stand import containers, controllers
from tests.stand.controllers import Known
from tests.stand.network import Network
from tests.stand.pods import Host, Pod

TICK = 0.1


class Event(NamedTuple):
    """What happened to a pod, by the wall clock."""

    at: float
    pod: str
    what: str


class Cluster:
    """Runs in the event loop of `run`.

    Attributes:
        pods: All that there are now, by name.
        away: Names of pods, or of workloads, that no node takes.
        events: What happened so far.
    """

    def __init__(self, host: Host, network: Network) -> None:
        self.pods: dict[str, Pod] = {}
        self.away: set[str] = set()
        self.events: list[Event] = []
        self._host, self._network = host, network
        self._objects: list[Object] = []
        self._keep = 0
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._forwarded: set[str] = set()

    async def apply(self, objects: list[Object], keep: int = 0) -> None:
        """Have it so: what is not among these objects any more leaves.

        Args:
            objects: As rendered.
            keep: So many pods of each workload stay as they were.
        """
        for service in of_kind(objects, "Service"):
            name = service["metadata"]["name"]
            if not _is_headless(service) and name not in self._forwarded:
                for each in service["spec"]["ports"]:
                    await self._network.forward(name, each["port"])
                self._forwarded.add(name)
        self._objects, self._keep = objects, keep

    async def run(self) -> None:
        """Until cancelled; then all pods end, without waiting for what they would publish."""
        try:
            while True:
                self._tick()
                await asyncio.sleep(TICK)
        finally:
            rest = [pod for pod in self.pods.values() if pod.name not in self._ends]
            for pod in self.pods.values():
                pod.kill()
            await asyncio.gather(*self._ends.values(), *(pod.end() for pod in rest))
            await self._network.stop()

    def is_settled(self) -> bool:
        """Whether all pods are there, available and of the newest revision, others are gone, and Jobs are done."""
        wanted = workloads(self._objects)
        strange = {pod.owner.name for pod in self.pods.values()} - {each.name for each in wanted}
        return not strange and not self._ends and all(self._is_settled(each) for each in wanted)

    def _tick(self) -> None:
        wanted = workloads(self._objects)
        for each in wanted:
            self._step(each)
        names = {each.name for each in wanted}
        for pod in self.pods.values():
            pod.check()
            if pod.owner.name not in names or self.away & {pod.name, pod.owner.name}:
                self._end(pod)
        self._tell()

    def _step(self, workload: Workload) -> None:
        count = controllers.replicas(workload, self._objects)
        made, ended = controllers.steps(workload, count, self._keep, self._known(workload))
        for name in ended:
            self._end(self.pods[name])
        for name in made:
            if not self.away & {name, workload.name}:
                facts = containers.Facts(name, self._network.new_address())
                self.pods[name] = Pod(facts, workload, controllers.revision(workload), self._host, self._note)

    def _known(self, workload: Workload) -> list[Known]:
        seconds = workload.spec.get("minReadySeconds", 0)
        mine = [pod for pod in self.pods.values() if pod.owner.name == workload.name]
        return [Known(pod.name, pod.revision, pod.ready_for(seconds), pod.ending) for pod in mine]

    def _is_settled(self, workload: Workload) -> bool:
        pods = self._known(workload)
        if workload.kind == "Job":
            return [self.pods[pod.name].phase for pod in pods] == ["Succeeded"]
        now = controllers.revision(workload)
        new = sum(pod.revision == now for pod in pods)
        count = controllers.replicas(workload, self._objects)
        return len(pods) == count and all(pod.available for pod in pods) and new >= count - self._keep

    def _end(self, pod: Pod) -> None:
        if pod.name not in self._ends:
            self._ends[pod.name] = asyncio.create_task(self._remove(pod))

    async def _remove(self, pod: Pod) -> None:
        await pod.end()
        del self.pods[pod.name], self._ends[pod.name]

    def _tell(self) -> None:
        """Tell the network whom each Service selects."""
        names, served = {}, {}
        for service in of_kind(self._objects, "Service"):
            name, spec = service["metadata"]["name"], service["spec"]
            found = [pod for pod in self.pods.values() if spec["selector"].items() <= pod.labels.items()]
            if not spec.get("publishNotReadyAddresses"):
                found = [pod for pod in found if pod.ready_for(0)]
            if _is_headless(service):
                names[name] = [pod.facts.address for pod in found]
                continue
            for each in spec["ports"]:
                target = [f"{pod.facts.address}:{containers.port(pod.container, each['targetPort'])}" for pod in found]
                served[f"{name}:{each['port']}"] = target
        self._network.tell(names, served)

    def _note(self, pod: str, what: str) -> None:
        self.events.append(Event(time.time(), pod, what))


def _is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")
