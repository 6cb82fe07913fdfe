"""What a pod's container is told, as its template says: environment, volumes, probes."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from tests.deploy.rendering import NAMESPACE, Object

Secrets = Mapping[str, Mapping[str, str]]
"""Values by name and key."""


class Facts(NamedTuple):
    """What a pod is told of itself."""

    name: str
    address: str

    def field(self, path: str) -> str:
        return {"metadata.name": self.name, "metadata.namespace": NAMESPACE, "status.podIP": self.address}[path]


class Probe(NamedTuple):
    """A question to `grpc.health.v1`, and how often it may be answered otherwise."""

    service: str
    port: int
    period: float
    timeout: float
    failures: int
    delay: float

    @classmethod
    def of(cls, container: Object, name: str) -> Self | None:
        given = container.get(f"{name}Probe")
        if given is None:
            return None
        asked = given["grpc"]
        period, failures = given.get("periodSeconds", 10), given.get("failureThreshold", 3)
        timeout, delay = given.get("timeoutSeconds", 1), given.get("initialDelaySeconds", 0)
        return cls(asked.get("service", ""), asked["port"], period, timeout, failures, delay)


def environment(container: Object, facts: Facts, secrets: Secrets) -> dict[str, str]:
    """Each variable's value, wherever that comes from."""
    found: dict[str, str] = {}
    for each in container.get("envFrom", []):
        found |= secrets[each["secretRef"]["name"]]
    for each in container.get("env", []):
        given = each.get("valueFrom")
        value = _taken(given, container, facts, secrets) if given else str(each.get("value", ""))
        found[each["name"]] = _expanded(value, found)
    return found


def command(container: Object, known: Mapping[str, str]) -> list[str]:
    """The command with its arguments."""
    return [_expanded(str(word), known) for word in (*container["command"], *container.get("args", []))]


def mounts(container: Object) -> dict[str, str]:
    """Names of volumes by the path where they are seen."""
    return {each["mountPath"]: each["name"] for each in container.get("volumeMounts", [])}


def port(container: Object, wanted: str | int) -> int:
    """A port by its name."""
    named = {each["name"]: int(each["containerPort"]) for each in container.get("ports", [])}
    return wanted if isinstance(wanted, int) else named[wanted]


def _taken(given: Object, container: Object, facts: Facts, secrets: Secrets) -> str:
    match given:
        case {"fieldRef": {"fieldPath": path}}:
            return facts.field(path)
        case {"secretKeyRef": {"name": name, "key": key}}:
            return secrets[name][key]
        case {"resourceFieldRef": {"resource": "requests.cpu"}}:
            return str(math.ceil(_cpus(str(container["resources"]["requests"]["cpu"]))))
    raise ValueError(f"the stand does not know {given}")


def _cpus(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def _expanded(value: str, known: Mapping[str, str]) -> str:
    """With $(NAME) replaced by what was named before; what was not stays as it is, as Kubernetes has it."""
    return re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), value)
