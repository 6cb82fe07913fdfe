"""Each alert, on a whole cluster where one thing is wrong: it alone fires, about what is wrong alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.deploy.prometheus import ALERTS, promtool

DOCS = Path(__file__).parents[2] / "docs" / "watching.md"
MINUTES = 300
"""That a case lasts. What is wrong is so from the hundredth minute on."""
BEGIN = 100

Series = Mapping[str, str]


class Case(NamedTuple):
    """What is wrong, and what is to be told of it.

    Attributes:
        name: Of the alert.
        series: Those of `HEALTHY` that are otherwise, and new ones; an empty one is missing.
        about: The labels by which the alert says what it is about.
        minutes: After which it is told, and not two minutes before; 0 where it has long been wrong.
    """

    name: str
    series: Series
    about: Mapping[str, str]
    minutes: int


def steady(value: float) -> str:
    return f"{value}x{MINUTES}"


def rising(a_minute: float) -> str:
    return f"0+{a_minute}x{MINUTES}"


def then(value: float, other: float) -> str:
    return f"{value}x{BEGIN - 1} {other}x{MINUTES - BEGIN}"


def then_rising(before: float, after: float) -> str:
    """A counter that rises so much a minute, then so much."""
    return f"0+{before}x{BEGIN - 1} {before * BEGIN}+{after}x{MINUTES - BEGIN}"


def target(pod: str, component: str, **labels: str) -> str:
    """The labels that a process is scraped with."""
    return labelled(namespace="n", release="r", job="vitrail", pod=pod, instance=pod, component=component, **labels)


def labelled(**labels: str) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


COORDINATORS = {pod: target(pod, "coordinator") for pod in ("c-0", "c-1")}
SHARDS = {f"s-{i}-{r}": target(f"s-{i}-{r}", "shard", layout="2", shard=str(i)) for i in (0, 1) for r in (0, 1)}
PLACES = {f"10.0.{i}.{r}:50061": str(i) for i in (0, 1) for r in (0, 1)}
C, S = COORDINATORS["c-0"], SHARDS["s-1-0"]
C1 = COORDINATORS["c-1"]


def _process(labels: str) -> dict[str, str]:
    return {
        f"up{{{labels}}}": steady(1),
        f"process_start_time_seconds{{{labels}}}": steady(5),
        f'vitrail_build_info{{{labels},version="1",protocol="1"}}': steady(1),
        f"vitrail_anonymous_bytes{{{labels}}}": steady(6),
        f"vitrail_memory_limit_bytes{{{labels}}}": steady(10),
    }


def _coordinator(labels: str) -> dict[str, str]:
    series = _process(labels) | {
        f"vitrail_store_reachable{{{labels}}}": steady(1),
        f'vitrail_collection_seq{{{labels},collection="clothes",collection_uid="7"}}': rising(600),
        f"vitrail_digest_mismatches_total{{{labels}}}": steady(0),
        f'vitrail_coverage_ratio_bucket{{{labels},le="0.999"}}': steady(0),
        f"vitrail_coverage_ratio_count{{{labels}}}": rising(6000),
        f'vitrail_step_seconds_bucket{{{labels},step="total",le="1.0"}}': rising(5990),
        f'vitrail_step_seconds_count{{{labels},step="total"}}': rising(6000),
        f'vitrail_commit_seconds_bucket{{{labels},le="1.0"}}': rising(99),
        f"vitrail_commit_seconds_count{{{labels}}}": rising(100),
    }
    for queue in ("decode", "embed", "search", "write"):
        series[f'vitrail_refused_total{{{labels},queue="{queue}"}}'] = steady(0)
    for service in ("Search", "Record"):
        series[handled(labels, service, "OK")] = rising(6000)
        series[handled(labels, service, "INVALID_ARGUMENT")] = rising(600)
        series[handled(labels, service, "UNAVAILABLE")] = rising(1)
    for shard in "01":
        series[f'vitrail_shard_replicas{{{labels},layout="2",shard="{shard}"}}'] = steady(2)
    for address in PLACES:
        series[f'vitrail_replica_reachable{{{labels},address="{address}"}}'] = steady(1)
        series[f'vitrail_replica_quarantined{{{labels},address="{address}"}}'] = steady(0)
        series |= took(labels, address, 0.025)
    return series


def _shard(labels: str) -> dict[str, str]:
    uid = f'{labels},collection_uid="7"'
    return _process(labels) | {
        f"vitrail_ready{{{labels}}}": steady(1),
        f"vitrail_log_connected{{{labels}}}": steady(1),
        f"vitrail_rows_applied_total{{{labels}}}": rising(300),
        f"vitrail_partition_applied_seq{{{uid}}}": f"0x0 0+600x{MINUTES - 1}",  # a minute late
        f"vitrail_partition_recall_ratio{{{uid}}}": steady(0.94),
        f"vitrail_partition_recall_target_ratio{{{uid}}}": steady(0.95),
        f"vitrail_partition_recall_samples{{{uid}}}": steady(500),
        f"vitrail_partition_in_trouble{{{uid}}}": steady(0),
        f"vitrail_disk_free_bytes{{{labels}}}": steady(4),
        f"vitrail_disk_bytes{{{labels}}}": steady(10),
        f'vitrail_snapshots_total{{{labels},what="written",outcome="done"}}': rising(0.2),
        f'vitrail_snapshots_total{{{labels},what="written",outcome="failed"}}': rising(0.1),
    }


def handled(labels: str, service: str, code: str) -> str:
    return f'grpc_server_handled_total{{{labels},grpc_service="vitrail.v1.{service}Service",grpc_code="{code}"}}'


def took(labels: str, address: str, seconds: float) -> dict[str, str]:
    """A process whose every answer takes so long, at most."""
    name = f'vitrail_replica_seconds_bucket{{{labels},layout="2",shard="{PLACES[address]}",address="{address}"'
    return {f'{name},le="{le}"}}': rising(100 if le >= seconds else 0) for le in (0.01, 0.025, 0.1, 0.25, float("inf"))}


def healthy() -> dict[str, str]:
    """Two coordinators, two shards of two replicas each, and everything as it should be."""
    series: dict[str, str] = {}
    for labels in COORDINATORS.values():
        series |= _coordinator(labels)
    for labels in SHARDS.values():
        series |= _shard(labels)
    return {name.replace('le="inf"', 'le="+Inf"'): values for name, values in series.items()}


def of_both(make: str, values: str) -> dict[str, str]:
    """The same of both coordinators; `make` has a place for their labels."""
    return {make.replace("LABELS", labels): values for labels in COORDINATORS.values()}


def without(*parts: str) -> dict[str, str]:
    """All series with one of these in their names are missing."""
    return {name: "" for name in healthy() if any(part in name for part in parts)}


SLOW = "10.0.1.1:50061"
CASES = [
    Case("VitrailNoCoordinator", of_both("up{LABELS}", then(1, 0)), {"release": "r"}, 2),
    Case("VitrailNotScraped", {f"up{{{S}}}": then(1, 0)}, {"pod": "s-1-0"}, 6),
    Case("VitrailRestarts", {f"process_start_time_seconds{{{S}}}": "5x100 6x5 7x5 8x200"}, {"pod": "s-1-0"}, 13),
    Case(
        "VitrailErrorsFast",
        of_both(handled("LABELS", "Record", "UNAVAILABLE"), then_rising(1, 6000)),
        {"grpc_service": "vitrail.v1.RecordService"},
        6,
    ),
    Case(
        "VitrailErrorsSlow",
        of_both(handled("LABELS", "Search", "DEADLINE_EXCEEDED"), rising(40)),
        {"grpc_service": "vitrail.v1.SearchService"},
        0,
    ),
    Case("VitrailStoreAway", of_both("vitrail_store_reachable{LABELS}", then(1, 0)), {"release": "r"}, 2),
    Case(
        "VitrailVersionsMixed",
        {f'vitrail_build_info{{{S},version="2",protocol="1"}}': f"_x{BEGIN} 1x{MINUTES - BEGIN}"},
        {"release": "r"},
        121,
    ),
    Case(
        "VitrailSlow",
        of_both('vitrail_step_seconds_bucket{LABELS,step="total",le="1.0"}', then_rising(5990, 5000)),
        {"release": "r"},
        12,
    ),
    Case(
        "VitrailStoreSlow",
        of_both('vitrail_commit_seconds_bucket{LABELS,le="1.0"}', then_rising(99, 50)),
        {"release": "r"},
        12,
    ),
    Case(
        "VitrailShardSlow",
        took(C, SLOW, 0.25) | took(C1, SLOW, 0.25),
        {"layout": "2", "shard": "1", "address": SLOW},
        0,
    ),
    Case(
        "VitrailRecallLow",
        {f'vitrail_partition_recall_ratio{{{S},collection_uid="7"}}': then(0.95, 0.9)},
        {"collection": "clothes", "pod": "s-1-0"},
        61,
    ),
    Case("VitrailDiverged", {f"vitrail_digest_mismatches_total{{{C}}}": then(0, 1)}, {"pod": "c-0"}, 1),
    Case(
        "VitrailQuarantined",
        of_both(f'vitrail_replica_quarantined{{LABELS,address="{SLOW}"}}', then(0, 1)),
        {"address": SLOW},
        61,
    ),
    Case(
        "VitrailShardBehind",
        {f'vitrail_partition_applied_seq{{{S},collection_uid="7"}}': f"0x0 0+600x{BEGIN} {600 * BEGIN}+300x{MINUTES}"},
        {"collection": "clothes", "pod": "s-1-0"},
        9,
    ),
    Case(
        "VitrailShardStuck",
        {
            f"vitrail_ready{{{S}}}": then(1, 0),
            f"vitrail_rows_applied_total{{{S}}}": then(30000, 30000),
        },
        {"pod": "s-1-0"},
        16,
    ),
    Case("VitrailLogDisconnected", {f"vitrail_log_connected{{{S}}}": then(1, 0)}, {"pod": "s-1-0"}, 6),
    Case(
        "VitrailIncompleteAnswers",
        of_both('vitrail_coverage_ratio_bucket{LABELS,le="0.999"}', then_rising(0, 3000)),
        {"release": "r"},
        4,
    ),
    Case(
        "VitrailShardMissing",
        of_both('vitrail_shard_replicas{LABELS,layout="2",shard="1"}', then(2, 0)),
        {"layout": "2", "shard": "1"},
        2,
    ),
    Case("VitrailNoShards", without("vitrail_shard_replicas"), {"release": "r"}, 0),
    Case(
        "VitrailReplicaUnreachable",
        {f'vitrail_replica_reachable{{{C},address="{SLOW}"}}': then(1, 0)},
        {"address": SLOW},
        3,
    ),
    Case(
        "VitrailReplicaMissing",
        of_both('vitrail_shard_replicas{LABELS,layout="2",shard="1"}', then(2, 1)),
        {"layout": "2", "shard": "1"},
        61,
    ),
    Case("VitrailRefuses", {f'vitrail_refused_total{{{C},queue="embed"}}': then_rising(0, 9)}, {"queue": "embed"}, 7),
    Case("VitrailMemory", {f"vitrail_anonymous_bytes{{{S}}}": then(6, 9.5)}, {"pod": "s-1-0"}, 6),
    Case("VitrailDiskFull", {f"vitrail_disk_free_bytes{{{S}}}": then(4, 1)}, {"pod": "s-1-0"}, 11),
    Case(
        "VitrailCannotWrite",
        {f'vitrail_partition_in_trouble{{{S},collection_uid="7"}}': then(0, 1)},
        {"pod": "s-1-0"},
        6,
    ),
    Case(
        "VitrailSnapshotsFail",
        {f'vitrail_snapshots_total{{{S},what="written",outcome="done"}}': then_rising(0.2, 0)},
        {"pod": "s-1-0"},
        91,
    ),
]


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", str(ALERTS))


def test_each_alert_says_what_to_do() -> None:
    """How bad it is, what it is, and one line of what can be done; and each one has its case here."""
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule
        assert all(text.strip() and "\n" not in text.strip() for text in rule["annotations"].values()), rule
    assert [rule["alert"] for rule in rules()] == [case.name for case in CASES]


def test_nothing_fires_where_all_is_well(tmp_path: Path) -> None:
    fires(tmp_path, healthy(), {minute: {} for minute in range(10, MINUTES, 10)})


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_alert_fires_on_what_it_names(case: Case, tmp_path: Path) -> None:
    """On it alone, and not before its time."""
    missing = [name for name in case.series if name in healthy() and not case.series[name]]
    series = {name: values for name, values in (healthy() | dict(case.series)).items() if name not in missing}
    expected: dict[int, dict[str, Mapping[str, str]]] = {BEGIN + case.minutes + 1: {case.name: case.about}}
    if case.minutes:
        expected[BEGIN + case.minutes - 2] = {}
    fires(tmp_path, series, expected)


def fires(directory: Path, series: Series, expected: Mapping[int, Mapping[str, Mapping[str, str]]]) -> None:
    """Ask promtool which alerts fire, by minute; each with the labels that it must have."""
    asked = []
    for minute, told in expected.items():
        for name, about in told.items():
            mine = f"ALERTS{{alertname='{name}',alertstate='firing'}}"
            asked.append((minute, f"group by ({','.join(about)}) ({mine})", [about]))
        everything = "group by (alertname) (ALERTS{alertstate='firing'})"
        asked.append((minute, everything, [{"alertname": name} for name in told]))
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": _selector(labels), "value": 1} for labels in samples],
            }
            for minute, expression, samples in asked
        ],
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(file))


def _selector(labels: Mapping[str, str]) -> str:
    return "{" + labelled(**labels) + "}"


def test_what_an_alert_says_can_be_filled_in() -> None:
    """Every label that its texts name is one that it has."""
    for case, rule in zip(CASES, rules(), strict=True):
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert named <= {"namespace", "release", "pod", "component", *case.about}, rule["alert"]


def test_the_documentation_has_each_alert() -> None:
    """With what it says is to be done, word for word."""
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| Vitrail")]
    assert documented == [row(rule) for rule in rules()]


def row(rule: Mapping[str, Any]) -> str:
    """An alert in the table of docs/watching.md; a label is in capitals."""
    severity, after, said = rule["labels"]["severity"], rule.get("for", "at once"), rule["annotations"]
    cells = [rule["alert"], severity, after, f"{said['summary']} {said['description']}", said["runbook"]]
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda label: label[1].upper(), f"| {' | '.join(cells)} |")
