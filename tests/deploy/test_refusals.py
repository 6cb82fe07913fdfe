"""Values that are wrong are refused before anything is installed, and the message names them."""

from typing import Any

import helm_python
import pytest

from tests.deploy.cluster import Cluster, node, stateful_set
from tests.deploy.rendering import CHART, NAMESPACE, RELEASE, Object, render

WRONG: list[tuple[Object, str]] = [
    ({"shards": [0]}, "'/shards/0': minimum: got 0, want 1"),
    ({"shards": 0}, "'/shards': got number, want array"),
    ({"shards": [1025]}, "'/shards/0': maximum"),
    ({"shards": []}, "'/shards': minItems"),
    ({"shards": [2, 2]}, "'/shards': items at 0 and 1 are equal"),
    ({"shards": ["2"]}, "'/shards/0': got string, want integer"),
    ({"shards": [2.5]}, "'/shards/0': got number, want integer"),
    ({"shards": None}, "missing property 'shards'"),
    ({"shard": None}, "missing property 'shard'"),
    ({"shardz": [2]}, "additional properties 'shardz' not allowed"),
    ({"replicas": 0}, "'/replicas': minimum"),
    ({"replicas": "2"}, "'/replicas': got string, want integer"),
    ({"replicas": 4, "nodes": 3}, "replicas: 4 processes of a shard need as many nodes, and there are 3"),
    ({"nodes": -1}, "'/nodes': minimum"),
    ({"store": {"secret": {"name": ""}}}, "'/store/secret/name'"),
    ({"store": {"url": "postgresql://user:word@host/name"}}, "'/store': additional properties 'url' not allowed"),
    ({"images": {"tag": "a/b"}}, "'/images/tag'"),
    ({"life": {"drain": 0}}, "'/life/drain': minimum"),
    ({"coordinator": {"embedders": []}}, "'/coordinator/embedders': minItems"),
    ({"coordinator": {"embedders": ["a", "a"]}}, "'/coordinator/embedders': items at 0 and 1 are equal"),
    ({"coordinator": {"settings": {"quue": 3}}}, "'/coordinator/settings': additional properties 'quue' not allowed"),
    ({"coordinator": {"settings": {"queue": "3"}}}, "'/coordinator/settings/queue': got string, want integer"),
    ({"coordinator": {"settings": {"port": 3}}}, "'/coordinator/settings': additional properties 'port' not allowed"),
    ({"coordinator": {"gpu": {"count": True}}}, "'/coordinator/gpu/count': got boolean, want integer"),
    ({"coordinator": {"resources": {"requests": {"memory": "3Gb"}}}}, "'/coordinator/resources/requests/memory'"),
    ({"coordinator": {"resources": {"requests": {"cpu": None}}}}, "missing property 'cpu'"),
    ({"coordinator": {"autoscaling": {"minReplicas": 9}}}, "coordinator.autoscaling.minReplicas: 9 is above"),
    ({"shard": {"storage": {"type": "disk"}}}, "'/shard/storage/type': value must be one of 'volume', 'ephemeral'"),
    ({"shard": {"tolerations": [{"keys": "a"}]}}, "'/shard/tolerations/0': additional properties 'keys' not allowed"),
    ({"shard": {"annotations": {"a": 1}}}, "'/shard/annotations/a': got number, want string"),
    ({"index": {"enabled": True, "collection": "c"}}, "index.url: is missing"),
    ({"index": {"enabled": True, "url": "u"}}, "index.collection: is missing"),
    ({"index": {"parts": 2}}, "index.parallelism: 4 is above parts, 2"),
    ({"networkPolicy": {"callers": [{}]}}, "'/networkPolicy/callers/0': minProperties"),
    ({"networkPolicy": {"outside": {"index": [0]}}}, "'/networkPolicy/outside/index/0': minimum"),
]


@pytest.mark.parametrize(("given", "why"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_wrong_values(given: Object, why: str) -> None:
    """A wrong type, an unknown key, a number out of its range, two that contradict: each by its name."""
    with pytest.raises(helm_python.HelmError) as refused:
        render(given)
    assert why in str(refused.value)


@pytest.mark.parametrize("release", ["r" * 31, "a.b", "1a"])
def test_wrong_names_of_releases(release: str) -> None:
    """A name that no Service could have, or that makes others too long, is refused as such."""
    with pytest.raises(helm_python.HelmRenderError, match="the release's name"):
        render({}, release)


def _install(cluster: Cluster, changes: dict[str, Any]) -> str:
    """What the chart refuses in a cluster; nothing where it renders."""
    with (
        helm_python.Config(kube_apiserver=cluster.url, namespace=NAMESPACE, storage_driver="memory") as config,
        pytest.raises(helm_python.HelmReleaseError) as refused,
    ):
        config.install(CHART, RELEASE, changes, dry_run="server")
    # Rendered, it asks for the schemas of all kinds, which this cluster has none of.
    return "" if "failed to download openapi" in str(refused.value) else str(refused.value)


def test_replicas_above_the_nodes_of_the_cluster() -> None:
    """Without the value `nodes` those of the cluster are counted that shards may run on."""
    with Cluster(nodes=[node("a", disk="fast"), node("b", disk="fast"), node("c")]) as cluster:
        assert _install(cluster, {"replicas": 3}) == ""
        assert "replicas: 4 processes of a shard need as many nodes, and there are 3" in _install(
            cluster, {"replicas": 4}
        )
        fast = {"nodeSelector": {"disk": "fast"}}
        assert "and there are 2" in _install(cluster, {"replicas": 3, "shard": fast})
        assert _install(cluster, {"replicas": 4, "nodes": 4}) == ""


def test_a_layout_leaves_only_when_the_wanted_one_runs() -> None:
    """Deleting shards before others are ready would lose searches: only who goes through `[2, 3]` comes to `[3]`."""
    two = [stateful_set(2, shard, ready=2) for shard in range(2)]
    building = [stateful_set(3, 0, ready=1), stateful_set(3, 1, ready=0), stateful_set(3, 2, ready=2)]
    ready = [stateful_set(3, shard, ready=1) for shard in range(3)]
    others = [stateful_set(5, shard, ready=2, release="another") for shard in range(5)]
    for running, wanted, why in (
        (two, [2], ""),
        (two, [2, 3], ""),
        (two, [3], "shards: 0 of 3 shards of the wanted layout are ready, so 2 cannot leave yet"),
        ([*two, *building], [3], "shards: 2 of 3 shards of the wanted layout are ready, so 2 cannot leave yet"),
        ([*two, *ready], [3], ""),
        ([*two, *building], [3, 2], ""),
        ([*two, *building], [2], ""),
        (others, [2], ""),
    ):
        with Cluster(nodes=[node("a"), node("b")], stateful_sets=running) as cluster:
            refused = _install(cluster, {"shards": wanted})
        assert why in refused
        assert bool(why) == bool(refused), refused
