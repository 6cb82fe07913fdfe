"""What must hold of every rendered object, for the chart's defaults and for each file of `ci`."""

from typing import Any

import pytest
import yaml

from tests.deploy.rendering import CHART, GIVEN, Object, objects, of_kind, render, selects, values, workloads

PORTS = {"grpc": {"coordinator": 50051, "shard": 50061}, "metrics": {"coordinator": 9090, "shard": 9091}}


@pytest.mark.parametrize("given", GIVEN)
def test_pods_have_no_rights(given: str) -> None:
    """No root, nothing written but to volumes, no capability, no token: whoever gets in gets nowhere."""
    for each in workloads(objects(given)):
        pod, container = each.pod["spec"], each.container
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        # A Service called vitrail would become VITRAIL_PORT=tcp://10.0.0.1:50051.
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("given", GIVEN)
def test_pods_ask_for_what_they_take(given: str) -> None:
    """Every container requests CPU and memory, and is bounded in memory by what it requests where it serves."""
    for each in workloads(objects(given)):
        resources = each.container["resources"]
        assert set(resources["requests"]) >= {"cpu", "memory"}
        assert "memory" in resources["limits"]
        if each.serves:
            assert resources["limits"]["memory"] == resources["requests"]["memory"]
        for volume in each.pod["spec"]["volumes"]:
            assert "sizeLimit" in volume["emptyDir"]
            if volume["name"] == "data":  # the node's disk, which pods would otherwise be put on until it is full
                assert resources["requests"]["ephemeral-storage"] == volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("given", GIVEN)
def test_mounted_volumes_exist(given: str) -> None:
    """Each mount has its volume, of the pod or of its claims; no volume is left over; partitions lie on one."""
    for each in workloads(objects(given)):
        claims = {claim["metadata"]["name"] for claim in each.spec.get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in each.pod["spec"]["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in each.container["volumeMounts"]}
        assert set(mounts) == volumes | claims
        assert mounts["tmp"] == "/tmp"
        if each.component == "shard":
            assert mounts["data"] == each.environment["VITRAIL_DATA"]
            assert ("data" in claims) == (values(given).get("shard", {}).get("storage", {}).get("type") != "ephemeral")
        if each.component == "coordinator":
            assert mounts["cache"] == each.environment["XDG_CACHE_HOME"]


@pytest.mark.parametrize("given", GIVEN)
def test_probes_ask_three_questions(given: str) -> None:
    """Alive, started and serving are asked apart, of the port that is served; a first build may take a day."""
    for each in workloads(objects(given)):
        if not each.serves:
            assert not [name for name in each.container if name.endswith("Probe")]
            continue
        port = PORTS["grpc"][each.component]
        assert each.environment["VITRAIL_PORT"] == str(port)
        assert each.container["livenessProbe"]["grpc"] == {"port": port, "service": "live"}
        assert each.container["startupProbe"]["grpc"] == {"port": port, "service": "started"}
        assert each.container["readinessProbe"]["grpc"] == {"port": port}
        start = each.container["startupProbe"]
        hours = start["periodSeconds"] * start["failureThreshold"] / 3600
        assert hours >= (24 if each.component == "shard" else 1)


@pytest.mark.parametrize("given", GIVEN)
def test_pods_have_time_to_end(given: str) -> None:
    """Kubernetes kills nobody who still settles, drains or publishes."""
    for each in workloads(objects(given)):
        if each.serves:
            told = each.environment
            seconds = float(told["VITRAIL_SETTLE_SECONDS"]) + float(told["VITRAIL_DRAIN_SECONDS"])
            more = 60 if each.component == "shard" else 10
            assert each.pod["spec"]["terminationGracePeriodSeconds"] >= seconds + more


@pytest.mark.parametrize("given", GIVEN)
def test_selectors_select_their_own_pods(given: str) -> None:
    """Every Deployment and StatefulSet owns its pods, and nobody else's."""
    found = [each for each in workloads(objects(given)) if each.serves]
    for each in found:
        owned = [other.name for other in found if selects(each.spec["selector"], other.labels)]
        assert owned == [each.name]


@pytest.mark.parametrize("given", GIVEN)
def test_services_lead_to_ports_of_containers(given: str) -> None:
    """A Service selects the pods of one component, by ports that their containers name."""
    found = workloads(objects(given))
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects(given), "Service")}
    assert set(services) == {"vitrail", "vitrail-log", "vitrail-shards"}
    for name, spec in services.items():
        component = "shard" if name == "vitrail-shards" else "coordinator"
        selected = [each for each in found if selects({"matchLabels": spec["selector"]}, each.labels)]
        assert selected == [each for each in found if each.component == component]
        for each in selected:
            ports = {port["name"]: port["containerPort"] for port in each.container["ports"]}
            for port in spec["ports"]:
                assert ports[port["targetPort"]] == port["port"] == PORTS[port["name"]][component]
            assert str(ports["metrics"]) == each.environment["VITRAIL_METRICS_PORT"]


@pytest.mark.parametrize("given", GIVEN)
def test_addresses_are_those_of_services(given: str) -> None:
    """Shards and coordinators find each other by names that exist, before anybody is ready; callers find who is."""
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects(given), "Service")}
    for name in ("vitrail-log", "vitrail-shards"):
        assert services[name]["clusterIP"] == "None"
        assert services[name]["publishNotReadyAddresses"] is True
    assert "clusterIP" not in services["vitrail"]
    assert "publishNotReadyAddresses" not in services["vitrail"]
    for each in workloads(objects(given)):
        if each.component == "coordinator":
            assert each.environment["VITRAIL_SHARDS"] == "dns:vitrail-shards:50061"
        if each.component == "shard":
            assert each.environment["VITRAIL_LOG"] == "dns:///vitrail-log:50051"
            assert each.spec["serviceName"] == "vitrail-shards"
            assert each.spec["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("given", GIVEN)
def test_shards_are_all_there(given: str) -> None:
    """Of each layout each shard has a StatefulSet, which knows which one it is, with so many replicas."""
    told = values(given)
    sets = [each for each in workloads(objects(given)) if each.kind == "StatefulSet"]
    for each in sets:
        assert each.environment["VITRAIL_COUNT"] == each.labels["vitrail.dev/layout"]
        assert each.environment["VITRAIL_INDEX"] == each.labels["vitrail.dev/shard"]
        assert each.spec["replicas"] == told.get("replicas", 2)
    found = sorted((int(each.environment["VITRAIL_COUNT"]), int(each.environment["VITRAIL_INDEX"])) for each in sets)
    assert found == [(count, shard) for count in told.get("shards", [2]) for shard in range(count)]


@pytest.mark.parametrize("given", GIVEN)
def test_replicas_are_held_apart(given: str) -> None:
    """By zone and by node, each constraint counts the pods that stand in for each other, and no others."""
    found = [each for each in workloads(objects(given)) if each.serves]
    for each in found:
        constraints = {item["topologyKey"]: item for item in each.pod["spec"]["topologySpreadConstraints"]}
        assert set(constraints) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for item in constraints.values():
            counted = [other.name for other in found if selects(item["labelSelector"], other.labels)]
            assert counted == [each.name]
            assert item.get("matchLabelKeys", []) == (["pod-template-hash"] if each.kind == "Deployment" else [])
        strict = constraints["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
        assert strict == (each.component == "shard")


@pytest.mark.parametrize("given", GIVEN)
def test_budgets_cover_everybody_once(given: str) -> None:
    """Of the coordinators and of each shard one process may be away by intention, where budgets are enabled."""
    budgets = of_kind(objects(given), "PodDisruptionBudget")
    for each in workloads(objects(given)):
        covering = [budget for budget in budgets if selects(budget["spec"]["selector"], each.labels)]
        assert len(covering) == (1 if each.serves and given != "small" else 0)
        assert [budget["spec"]["maxUnavailable"] for budget in covering] == [1] * len(covering)
        assert [budget["metadata"]["name"] for budget in covering] == [each.name] * len(covering)


@pytest.mark.parametrize("given", GIVEN)
def test_autoscaling_has_its_target(given: str) -> None:
    """Coordinators follow CPU and queues, and nobody else sets how many there are."""
    (deployment,) = of_kind(objects(given), "Deployment")
    scalers = of_kind(objects(given), "HorizontalPodAutoscaler")
    if given == "small":
        assert not scalers
        assert deployment["spec"]["replicas"] == 1
        return
    (scaler,) = scalers
    assert "replicas" not in deployment["spec"]
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    cpu, queue = scaler["spec"]["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    assert queue["pods"]["metric"]["name"] == "vitrail_queue_depth_items"


def test_the_queue_is_a_metric_of_the_server() -> None:
    """What autoscaling asks for is what coordinators export."""
    from vitrail.server.metrics import QUEUE_DEPTH

    (metric,) = QUEUE_DEPTH.collect()
    assert metric.name == "vitrail_queue_depth_items"


@pytest.mark.parametrize("given", GIVEN)
def test_secrets_are_references(given: str) -> None:
    """The chart holds no secret; the store's URL comes from one, to those alone who speak SQL."""
    assert not of_kind(objects(given), "Secret")
    for each in workloads(objects(given)):
        speaks = each.component in ("coordinator", "migrate")
        assert ("VITRAIL_STORE" in each.environment) == speaks
        if speaks:
            (store,) = (item for item in each.container["env"] if item["name"] == "VITRAIL_STORE")
            assert store["valueFrom"] == {"secretKeyRef": {"name": "vitrail-store", "key": "url"}}


@pytest.mark.parametrize("given", GIVEN)
def test_pods_run_as_the_account(given: str) -> None:
    """The service account exists, or is the one that is named; it has no role, and mounts nothing."""
    accounts = {each["metadata"]["name"]: each for each in of_kind(objects(given), "ServiceAccount")}
    assert set(accounts) == (set() if given == "small" else {"vitrail"})
    assert [each["automountServiceAccountToken"] for each in accounts.values()] == [False] * len(accounts)
    assert not of_kind(objects(given), "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    for each in workloads(objects(given)):
        assert each.pod["spec"]["serviceAccountName"] == ("default" if given == "small" else "vitrail")


def test_jobs_are_never_changed() -> None:
    """Kubernetes refuses to change a Job, so whatever changes one gives it another name."""
    changes: list[Object] = [
        {},
        {"images": {"tag": "0.2.0"}},
        {"images": {"tag": "0.2.0", "pullPolicy": "Always"}},
        {"shards": [2, 3]},
        {"jobs": {"resources": {"limits": {"memory": "1Gi"}}}},
        {"store": {"secret": {"name": "another"}}},
        {"index": {"url": "s3://another/bucket"}},
        {"index": {"parallelism": 2}},
        {"serviceAccount": {"name": "another"}},
    ]
    seen: dict[str, Any] = {}
    for change in changes:
        index = {"enabled": True, "url": "s3://bucket", "collection": "c", **change.get("index", {})}
        for job in of_kind(render({**change, "index": index}), "Job"):
            assert seen.setdefault(job["metadata"]["name"], job["spec"]) == job["spec"]
    assert len(seen) > 10


def test_the_jobs() -> None:
    """Migrations run as the coordinators' image, the wanted layout is the last one, and each part of a bucket is asked
    for once, whatever its name holds."""
    jobs = {each.component: each for each in workloads(objects("indexing")) if each.kind == "Job"}
    assert set(jobs) == {"migrate", "layout", "index"}
    assert jobs["migrate"].container["command"] == ["vitrail", "migrate"]
    assert jobs["layout"].container["args"] == ["--set", "2", "--address", "vitrail-log:50051"]
    index = jobs["index"]
    assert (index.spec["completionMode"], index.spec["completions"], index.spec["parallelism"]) == ("Indexed", 32, 8)
    shell, option, script = index.container["command"]
    assert (shell, option) == ("sh", "-c")
    assert script == 'exec vitrail index --part "$((JOB_COMPLETION_INDEX + 1))/$0" "$@"'
    assert index.container["args"] == [
        "32", "s3://bucket/photos of hats", "--collection", "clothes", "--address", "vitrail:50051", "--thumbnails",
    ]  # fmt: skip


def test_gpus() -> None:
    """A pod with a GPU asks for it, stands the taint of its nodes, and is told to use it."""
    found = [each for each in workloads(objects("gpu")) if each.serves]
    for each in found:
        assert each.container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in each.pod["spec"][
            "tolerations"
        ]
    coordinator = found[0]
    assert coordinator.container["image"] == "registry.example.com/search/vitrail-coordinator-cuda:0.1.0-rc.1"
    assert coordinator.pod["spec"]["runtimeClassName"] == "nvidia"
    assert coordinator.pod["spec"]["nodeSelector"] == {"accelerator": "h100"}
    assert coordinator.pod["spec"]["tolerations"][0]["key"] == "team"
    assert coordinator.environment["VITRAIL_EMBED_BATCH"] == "64"
    assert {each.environment["VITRAIL_DEVICE"] for each in found[1:]} == {"cuda"}
    assert {each.environment.get("VITRAIL_DEVICE") for each in workloads(objects(""))} == {"cpu", None}


def test_monitoring() -> None:
    """A ServiceMonitor finds each component by one Service, labelled as the scrape configuration does."""
    services = of_kind(objects("operator"), "Service")
    monitors = of_kind(objects("operator"), "ServiceMonitor")
    (scrape,) = yaml.safe_load((CHART / "files/scrape.yaml").read_text())["scrape_configs"]
    labels = [each["target_label"] for each in scrape["relabel_configs"] if "target_label" in each]
    found = []
    for monitor in monitors:
        (service,) = (each for each in services if selects(monitor["spec"]["selector"], each["metadata"]["labels"]))
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert {each["targetLabel"] for each in endpoint["relabelings"]} == {"job", *labels}
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        found.append(service["metadata"]["name"])
    assert sorted(found) == ["vitrail-log", "vitrail-shards"]
    assert not of_kind(objects(""), "ServiceMonitor", "PrometheusRule")


@pytest.mark.parametrize("given", GIVEN)
def test_rules_and_dashboards_are_handed_over(given: str) -> None:
    """What stands in files/ is in ConfigMaps as it is, whether or not Prometheus' operator runs."""
    maps = {each["metadata"]["name"]: each for each in of_kind(objects(given), "ConfigMap")}
    files = {path.name: path.read_text() for path in (CHART / "files").glob("*.yaml")}
    assert {"alerts.yaml", "scrape.yaml"} <= set(files)
    assert maps["vitrail-prometheus"]["data"] == files
    dashboards = {path.name: path.read_text() for path in (CHART / "files/dashboards").glob("*.json")}
    assert dashboards
    assert maps["vitrail-dashboards"]["data"] == dashboards
    assert maps["vitrail-dashboards"]["metadata"]["labels"]["grafana_dashboard"] == "1"
