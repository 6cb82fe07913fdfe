"""What controllers of Kubernetes do next: which pods to make and which to end, by what is wanted and what there is."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.deploy.rendering import Object, Workload


class Known(NamedTuple):
    """What a controller knows of one of its pods.

    Attributes:
        available: Ready for as long as the workload asks.
    """

    name: str
    revision: str
    available: bool = False
    ending: bool = False


class Steps(NamedTuple):
    """Names of pods to make, and of pods to end."""

    make: Sequence[str] = ()
    end: Sequence[str] = ()


def revision(workload: Workload) -> str:
    """What changes with the template of its pods."""
    return hashlib.sha256(json.dumps(workload.pod, sort_keys=True).encode()).hexdigest()[:8]


def replicas(workload: Workload, objects: list[Object]) -> int:
    """How many pods it is to have; where it is scaled by load, the least."""
    for each in objects:
        if each["kind"] == "HorizontalPodAutoscaler" and each["spec"]["scaleTargetRef"]["name"] == workload.name:
            return int(each["spec"]["minReplicas"])
    return int(workload.spec.get("replicas", 1))


def steps(workload: Workload, count: int, keep: int, pods: Sequence[Known]) -> Steps:
    """What to do now.

    Args:
        workload: What is wanted.
        count: Of so many pods.
        keep: So many of them stay of an older revision, if they are: a rolling update that is held on its way, as by
            a StatefulSet's `partition` and a Deployment's pause.
        pods: What there is.
    """
    rule = {"Deployment": _deployment, "StatefulSet": _stateful_set, "Job": _job}[workload.kind]
    return rule(workload, count, keep, pods)


def _stateful_set(workload: Workload, count: int, keep: int, pods: Sequence[Known]) -> Steps:
    """All at the same time at first; then replaced one by one from the last, each once the one before is available."""
    assert workload.spec["podManagementPolicy"] == "Parallel"
    there = {pod.name: pod for pod in pods}
    wanted = [f"{workload.name}-{ordinal}" for ordinal in range(count)]
    make = [name for name in wanted if name not in there]
    end = [pod.name for pod in pods if pod.name not in wanted and not pod.ending]
    for name in reversed(wanted[keep:]):
        pod = there.get(name)
        if pod is None or pod.ending:
            break
        if pod.revision != revision(workload):
            return Steps(make, [*end, name])
        if not pod.available:
            break
    return Steps(make, end)


def _deployment(workload: Workload, count: int, keep: int, pods: Sequence[Known]) -> Steps:
    """New ones up to the surge; of the old ones, first those that do not serve, as many as leave enough that do."""
    given = workload.spec.get("strategy", {}).get("rollingUpdate", {})
    surge = _share(given.get("maxSurge", "25%"), count, math.ceil)
    least = count - _share(given.get("maxUnavailable", "25%"), count, math.floor)
    now = revision(workload)
    there = {pod.name for pod in pods}
    live = [pod for pod in pods if not pod.ending]
    new = [pod for pod in live if pod.revision == now]
    old = sorted((pod for pod in live if pod.revision != now), key=lambda pod: pod.available)
    wanted = count - min(keep, len(old))
    names = (name for serial in itertools.count() if (name := f"{workload.name}-{now}-{serial}") not in there)
    make = list(itertools.islice(names, max(0, min(wanted - len(new), count + surge - len(live)))))
    spare = sum(pod.available for pod in live) - least
    end = [pod.name for pod in new[count:]]
    for pod in old[: len(old) - keep]:
        if pod.available and spare <= 0:
            break
        spare -= pod.available
        end.append(pod.name)
    return Steps(make, end)


def _share(given: int | str, count: int, rounded: Callable[[float], int]) -> int:
    """A number of pods, or so many percent of all."""
    return given if isinstance(given, int) else rounded(count * int(given.removesuffix("%")) / 100)


def _job(workload: Workload, count: int, keep: int, pods: Sequence[Known]) -> Steps:
    """One pod, once."""
    assert workload.spec.get("completions", 1) == 1, "the stand runs Jobs of one pod"
    return Steps() if pods else Steps([f"{workload.name}-0"])
