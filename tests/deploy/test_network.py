"""Network policies allow the arrows of ARCHITECTURE.md, and nothing else."""

from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any, NamedTuple

import pytest

from tests.deploy.rendering import GIVEN, NAMESPACE, Object, objects, of_kind, render, selects, workloads

PORTS = (53, 443, 5432, 6432, 9090, 9091, 50051, 50061)
METADATA = "kubernetes.io/metadata.name"
CLUSTER = {
    ("shard", "coordinator", 50051),  # follows the log
    ("coordinator", "shard", 50061),  # asks
    ("layout", "coordinator", 50051),
}


class Place(NamedTuple):
    """Who takes part: a pod with labels in a namespace, or an address outside."""

    labels: dict[str, str]
    namespace: str = ""
    address: str = ""


OTHERS = {
    "neighbour": Place({"app": "shop"}, NAMESPACE),
    "web": Place({"app": "web"}, "shop"),
    "stranger": Place({"app": "job"}, "shop"),
    "prometheus": Place({"app": "prometheus"}, "monitoring"),
    "database": Place({}, address="10.0.0.7"),
    "internet": Place({}, address="93.184.216.34"),
}


def _arrows(found: tuple[Object, ...] | list[Object]) -> set[tuple[str, str, int]]:
    """Who can open a connection to whom, by which port."""
    policies = [each["spec"] for each in of_kind(found, "NetworkPolicy")]
    places = OTHERS | {each.component: Place(each.labels, NAMESPACE) for each in workloads(found)}
    return {
        (source, target, port)
        for (source, sender), (target, receiver), port in product(places.items(), places.items(), PORTS)
        if source != target
        and _passes(policies, "Egress", sender, receiver, port)
        and _passes(policies, "Ingress", receiver, sender, port)
    }


def _passes(policies: list[Object], direction: str, of: Place, other: Place, port: int) -> bool:
    """Whether what a pod sends or receives is allowed: where a policy selects it, only what one of these names."""
    applying = [
        policy
        for policy in policies
        if of.namespace == NAMESPACE
        and direction in policy["policyTypes"]
        and selects(policy["podSelector"], of.labels)
    ]
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    rules = [rule for policy in applying for rule in policy.get(key, [])]
    return not applying or any(
        port in {each["port"] for each in rule["ports"]}
        and (peers not in rule or any(_is(peer, other) for peer in rule[peers]))
        for rule in rules
    )


def _is(peer: dict[str, Any], place: Place) -> bool:
    if "ipBlock" in peer:
        return bool(place.address) and ip_address(place.address) in ip_network(peer["ipBlock"]["cidr"])
    if place.address:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {METADATA: place.namespace})
    else:
        in_namespace = place.namespace == NAMESPACE
    return in_namespace and selects(peer.get("podSelector", {}), place.labels)


def _between(arrows: set[tuple[str, str, int]], *names: str) -> set[tuple[str, str, int]]:
    return {arrow for arrow in arrows if arrow[0] in names and arrow[1] in names}


@pytest.mark.parametrize("given", [each for each in GIVEN if each != "small"])
def test_parts_reach_each_other_by_the_arrows(given: str) -> None:
    """Coordinators ask shards, shards follow coordinators, jobs call these: no part reaches another one otherwise."""
    arrows = _arrows(objects(given))
    expected = set(CLUSTER)
    if given == "indexing":
        expected.add(("index", "coordinator", 50051))
    assert _between(arrows, "coordinator", "shard", "migrate", "layout", "index") == expected


@pytest.mark.parametrize(
    ("given", "more"),
    [("", set()), ("indexing", {("index", 443)}), ("ephemeral", {("shard", 443)}), ("gpu", {("coordinator", 443)})],
)
def test_who_reaches_outside(given: str, more: set[tuple[str, int]]) -> None:
    """Who speaks SQL reaches the store, whose bucket or hub it is reaches that, and everybody looks up names."""
    names = {(each.component, 53) for each in workloads(objects(given))}
    allowed = names | {("coordinator", 5432), ("migrate", 5432)} | more
    assert _going_out(given) == {(name, place, port) for name, port in allowed for place in ("database", "internet")}


def test_the_store_has_a_place() -> None:
    """Where it is said where the store is, nothing else is reached by its port."""
    store = {arrow for arrow in _going_out("operator") if arrow[2] != 53}
    assert store == {("coordinator", "database", 6432), ("migrate", "database", 6432)}


def _going_out(given: str) -> set[tuple[str, str, int]]:
    return {
        arrow for arrow in _arrows(objects(given)) if arrow[0] not in OTHERS and arrow[1] in ("database", "internet")
    }


def test_who_comes_in() -> None:
    """Callers call, Prometheus scrapes, and nobody else gets in."""
    arrows = _arrows(objects("operator"))
    coming = {arrow for arrow in arrows if arrow[0] in OTHERS and arrow[1] not in OTHERS}
    assert coming == {
        ("web", "coordinator", 50051),
        ("prometheus", "coordinator", 9090),
        ("prometheus", "shard", 9091),
    }


def test_who_comes_in_by_default() -> None:
    """Pods of the same namespace may call, pods of all namespaces scrape, and nothing from outside gets in."""
    arrows = _arrows(objects(""))
    callers = {arrow[0] for arrow in arrows if arrow[1:] == ("coordinator", 50051)} & set(OTHERS)
    assert callers == {"neighbour"}
    coming = {arrow for arrow in arrows if arrow[0] in OTHERS and arrow[1] not in OTHERS}
    assert {arrow[1:] for arrow in coming} == {("coordinator", 50051), ("coordinator", 9090), ("shard", 9091)}
    assert not {arrow[0] for arrow in coming} & {"database", "internet"}


def test_nobody_may_call_where_no_caller_is_named() -> None:
    """An empty list is nobody, not everybody."""
    arrows = _arrows(render({"networkPolicy": {"callers": [], "prometheus": []}}))
    assert not {arrow for arrow in arrows if arrow[0] in OTHERS and arrow[1] not in OTHERS}


def test_policies_can_be_left_to_others() -> None:
    """Without them Kubernetes lets everybody through."""
    assert not of_kind(objects("small"), "NetworkPolicy")
