"""The dashboard: that its queries are queries, of metrics that there are, and what is drawn of them."""

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from prometheus_client import REGISTRY

from tests.deploy.panels import Mark, ask_all, draw, panels
from tests.deploy.prometheus import ALERTS, FILES, promtool

DOCS = Path(__file__).parents[2] / "docs" / "watching.md"
SUFFIX = re.compile("_(total|count|sum|bucket)$")


def test_queries_are_queries(tmp_path: Path) -> None:
    queries = [query.expression for panel in panels() for query in panel.queries]
    rules = [
        {"record": f"vitrail:query{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", str(file))


@pytest.mark.parametrize("file", [ALERTS, FILES / "dashboards" / "vitrail.json", DOCS], ids=lambda file: file.name)
def test_metrics_that_are_named_are_there(file: Path) -> None:
    """In a process of the coordinator or of a shard."""
    for module in ("rpc.process", "rpc.waiting", "server.metrics", "shard.metrics"):
        importlib.import_module(f"vitrail.{module}")
    there = {metric.name for metric in REGISTRY.collect()}
    named = {SUFFIX.sub("", name) for name in re.findall(r"\bvitrail_\w+", file.read_text())}
    assert named
    assert named <= there


def answer(text: str, begin: float, end: float, step: float) -> list[Mapping[str, Any]]:
    """A line that goes on, whatever was asked."""
    assert "$" not in text
    return [{"metric": {"pod": "shard-0", "queue": "embed"}, "values": [[begin, "0.5"], [end, "NaN"]]}]


def test_what_was_answered_is_drawn(tmp_path: Path) -> None:
    answers = ask_all(answer, 1000.0, 1060.0, rates_over="10s")
    assert [each.panel for each in answers] == panels()
    refused = next(each for each in answers if each.panel.title == "Refused calls")
    [line] = refused.lines
    assert line.name == "embed"
    assert [math.isfinite(value) for value in line.values] == [True, False, False]  # a gap is no line
    draw(answers, tmp_path / "all.png", "All", 1000.0, [Mark(1010.0, 1020.0, "a fault")])
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width == 1080


def test_a_query_without_data_is_named() -> None:
    """Whether it has no line or none of its lines has a value."""

    def ask(text: str, begin: float, end: float, step: float) -> list[Mapping[str, Any]]:
        if "vitrail_refused_total" in text:
            return []
        if "process_cpu_seconds_total" in text:
            return [{"metric": {}, "values": [[begin, "NaN"]]}]
        return answer(text, begin, end, step)

    with pytest.raises(AssertionError, match="no data") as failed:
        ask_all(ask, 1000.0, 1060.0, rates_over="10s")
    assert [line.partition(":")[0] for line in str(failed.value).splitlines()[1:]] == ["Refused calls", "CPU"]
