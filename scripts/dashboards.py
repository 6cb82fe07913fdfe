"""Generate the dashboard for Grafana, or check that the committed one is current.

Its rows are the questions of docs/watching.md, in their order. What a panel shows when all is well stands in its
description.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders.common import ScaleDistributionConfig, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, ScaleDistribution
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

FILE = Path(__file__).resolve().parent.parent / "deploy" / "chart" / "files" / "dashboards" / "vitrail.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

HERE = 'namespace=~"$namespace",release=~"$release"'
CALLS = f'{HERE},grpc_service=~"vitrail.v1.(Search|Record)Service"'
FAILED = f'{CALLS},grpc_code=~"UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|INTERNAL|UNKNOWN"'
BY_UID = "on (namespace, release, collection_uid) group_right (collection)"


class Shown(NamedTuple):
    """A panel, what to expect of it, and its queries by how their lines are called."""

    title: str
    unit: str
    description: str
    queries: dict[str, str]


def of(metric: str, labels: str = HERE) -> str:
    return f"{metric}{{{labels}}}"


def rate(metric: str, labels: str = HERE) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def total(expression: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({expression})"


def most(expression: str, *by: str) -> str:
    return f"max by ({', '.join(by)}) ({expression})"


def percentile(share: float, metric: str, *by: str, labels: str = HERE) -> str:
    return f"histogram_quantile({share}, {total(rate(f'{metric}_bucket', labels), *by, 'le')})"


HEADS = most(of("vitrail_collection_seq"), "namespace", "release", "collection", "collection_uid")
STEP = f'{HERE},step="total"'
INCOMPLETE = f'{HERE},le="0.999"'

ROWS = {
    "Is it up?": [
        Shown(
            "Processes, by version",
            "short",
            "As many as were asked for; of two versions only while an update goes on. The store answers: 1.",
            {
                "{{component}} {{version}}": total(of("vitrail_build_info"), "component", "version"),
                "store": f"min({of('vitrail_store_reachable')})",
            },
        ),
        Shown(
            "Calls by outcome",
            "reqps",
            "OK, and what callers got wrong themselves (INVALID_ARGUMENT, NOT_FOUND).",
            {
                "{{grpc_service}} {{grpc_code}}": total(
                    rate("grpc_server_handled_total", CALLS), "grpc_service", "grpc_code"
                )
            },
        ),
        Shown(
            "Failed calls",
            "percentunit",
            "Of all, those that the server failed: below 0.1%.",
            {
                "{{grpc_service}}": (
                    f"({total(rate('grpc_server_handled_total', FAILED), 'grpc_service')}"
                    f" or 0 * {total(rate('grpc_server_handled_total', CALLS), 'grpc_service')})"
                    f" / {total(rate('grpc_server_handled_total', CALLS), 'grpc_service')}"
                )
            },
        ),
    ],
    "Is it fast?": [
        Shown(
            "Searches",
            "s",
            "What coordinators took for them, from the request to the answer.",
            {
                f"p{100 * share:.0f}": percentile(share, "vitrail_step_seconds", labels=STEP)
                for share in (0.5, 0.95, 0.99)
            },
        ),
        Shown(
            "Steps of a search, p95",
            "s",
            "Which one takes the time: search_wait and embed_wait are queues, shard is part of fanout.",
            {"{{step}}": percentile(0.95, "vitrail_step_seconds", "step", labels=f'{HERE},step!="total"')},
        ),
        Shown(
            "Writes, p95",
            "s",
            "A call waits for embedding and for one commit, which many calls share.",
            {
                "{{grpc_method}}": percentile(
                    0.95,
                    "grpc_server_handling_seconds",
                    "grpc_method",
                    labels=f'{HERE},grpc_method=~"UpsertRecords|DeleteRecords"',
                ),
                "commit": percentile(0.95, "vitrail_commit_seconds"),
            },
        ),
    ],
    "Which shard is slow?": [
        Shown(
            "What coordinators wait for, p95",
            "s",
            "All alike. A batch is as slow as the slowest shard; 1/2 is shard 1 of 2.",
            {
                "{{shard}}/{{layout}} {{address}}": percentile(
                    0.95, "vitrail_replica_seconds", "layout", "shard", "address"
                )
            },
        ),
        Shown(
            "In the shard, p95",
            "s",
            "Waiting: other batches are before it. Searching: the index itself.",
            {
                "{{pod}} waits": percentile(0.95, "vitrail_search_wait_seconds", "pod"),
                "{{pod}} searches": percentile(0.95, "vitrail_search_seconds", "pod"),
            },
        ),
        Shown(
            "Questions that went to another replica",
            "reqps",
            "A few, since the first was slow; none, since it had failed.",
            {
                "it was slow": f"sum({rate('vitrail_hedges_total')})",
                "it had failed": f"sum({rate('vitrail_failovers_total')})",
            },
        ),
    ],
    "Is it right?": [
        Shown(
            "Recall of searches by default",
            "percentunit",
            "As shards measure it on callers' own queries: at its target. None before the first index.",
            {
                "{{collection}} {{pod}}": f"{HEADS} * 0 + {BY_UID} {of('vitrail_partition_recall_ratio')}",
                "target of {{collection}}": (
                    f"max by (collection) ({HEADS} * 0 + {BY_UID} {of('vitrail_partition_recall_target_ratio')})"
                ),
            },
        ),
        Shown(
            "Processes that held other records than the store",
            "short",
            "None. Slots differ for a moment while a write is on its way.",
            {
                "left out": f"sum({most(of('vitrail_replica_quarantined'), 'namespace', 'release', 'address')})",
                "slots that differ": f"max({of('vitrail_digest_suspects')})",
            },
        ),
        Shown(
            "Partitions",
            "short",
            "Being trained or compacted now and then; built anew never, unless they were damaged.",
            {
                "in training or compaction": f"sum({of('vitrail_partition_building')})",
                "in trouble": f"sum({of('vitrail_partition_in_trouble')})",
                "built anew, an hour": f"sum(increase({of('vitrail_partition_rebuilds_total')}[1h]))",
            },
        ),
    ],
    "Is it fresh?": [
        Shown(
            "Behind the log",
            "short",
            "Records that a process has still to hear of: few, and back to 0 when nobody writes.",
            {"{{pod}} {{collection}}": f"clamp_min({HEADS} - {BY_UID} {of('vitrail_partition_applied_seq')}, 0)"},
        ),
        Shown(
            "Rows",
            "rps",
            "Shards apply what is written; each its part, and replicas the same.",
            {
                "written": f"sum({rate('vitrail_rows_written_total')})",
                "{{pod}} applies": total(rate("vitrail_rows_applied_total"), "pod"),
            },
        ),
        Shown(
            "Shards that follow the log",
            "short",
            "All, and all caught up.",
            {
                "connected": f"sum({of('vitrail_log_connected')})",
                "caught up": f"sum({of('vitrail_ready')})",
            },
        ),
    ],
    "Is it whole?": [
        Shown(
            "Answers that covered all records",
            "percentunit",
            "100%. The others say themselves what they left out.",
            {
                "answers": (
                    f"1 - sum({rate('vitrail_coverage_ratio_bucket', INCOMPLETE)})"
                    f" / sum({rate('vitrail_coverage_ratio_count')})"
                ),
                "records, in the mean": (
                    f"sum({rate('vitrail_coverage_ratio_sum')}) / sum({rate('vitrail_coverage_ratio_count')})"
                ),
            },
        ),
        Shown(
            "Processes that can be asked for each shard",
            "short",
            "As many as it has replicas; at 0 answers are without its records.",
            {"{{shard}}/{{layout}}": f"min by (layout, shard) ({of('vitrail_shard_replicas')})"},
        ),
        Shown(
            "Records",
            "short",
            "What the store holds.",
            {"{{collection}}": most(of("vitrail_collection_records"), "collection")},
        ),
    ],
    "Is it full?": [
        Shown(
            "How full queues are",
            "percentunit",
            "Near 0: at 100% calls are refused.",
            {
                "{{queue}}": (
                    f"max by (queue) ({of('vitrail_queue_depth_items')} / {of('vitrail_queue_capacity_items')})"
                )
            },
        ),
        Shown(
            "How long the first of a batch waited, p95",
            "s",
            "As long as the batch before it took.",
            {"{{queue}}": percentile(0.95, "vitrail_queue_seconds", "queue")},
        ),
        Shown("Refused calls", "reqps", "None.", {"{{queue}}": total(rate("vitrail_refused_total"), "queue")}),
        Shown(
            "Busy",
            "percentunit",
            "Of the time, in which a device embeds or an index is searched: at 100% the queue before it grows.",
            {
                "{{pod}} device {{device}}": total(rate("vitrail_device_busy_seconds_total"), "pod", "device"),
                "{{pod}} index": total(rate("vitrail_search_seconds_sum"), "pod"),
            },
        ),
        Shown("CPU", "short", "Cores.", {"{{pod}}": total(rate("process_cpu_seconds_total"), "pod")}),
        Shown(
            "Memory and disk",
            "percentunit",
            "Of what the process may take, and of the disk where partitions are: below 85%.",
            {
                "{{pod}} memory": f"{of('vitrail_anonymous_bytes')} / ({of('vitrail_memory_limit_bytes')} > 0)",
                "{{pod}} disk": f"1 - {of('vitrail_disk_free_bytes')} / {of('vitrail_disk_bytes')}",
            },
        ),
    ],
}


def dashboard() -> str:
    """The dashboard as JSON."""
    made = (
        Dashboard("Vitrail")
        .uid("vitrail")
        .tags(["vitrail"])
        .refresh("30s")
        .time("now-1h", "now")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name in ("namespace", "release"):
        made.with_variable(
            QueryVariable(name)
            .datasource(SOURCE)
            .query(f"label_values(vitrail_build_info, {name})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for title, panels in ROWS.items():
        made.with_row(Row(title))
        for shown in panels:
            made.with_panel(_panel(shown))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(shown: Shown) -> Panel:
    legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = Panel().title(shown.title).description(shown.description).unit(shown.unit).datasource(SOURCE)
    panel.fill_opacity(5).span(8).height(8).legend(legend)
    if shown.unit == "s":  # what takes seconds must not hide what takes milliseconds
        panel.scale_distribution(ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    else:
        panel.min(0)
    for letter, (line, expression) in zip("ABC", shown.queries.items(), strict=False):
        panel.with_target(Dataquery().ref_id(letter).expr(expression).legend_format(line).datasource(SOURCE))
    return panel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed file")
    write = parser.parse_args().write
    fresh = dashboard()
    if write:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(fresh)
    elif not FILE.exists() or FILE.read_text() != fresh:
        print(f"not current: {FILE} (run `make dashboards`)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
