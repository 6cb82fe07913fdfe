"""`vitrail plan`: the command."""

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from vitrail.cli.catalog import MetricName
from vitrail.cli.common import AsJson, fail, print_json
from vitrail.cli.plan import constants
from vitrail.cli.plan.planned import Asked, NoPlan
from vitrail.cli.plan.planned import plan as plan_for
from vitrail.cli.plan.report import show, values
from vitrail.cli.plan.sizes import Kind

THOUSANDS = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BYTES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
MOST_RECORDS = 10**13
GIB = 2**30


def number(units: dict[str, float], example: str) -> Callable[[str], float]:
    """Reads a positive number with one of these units."""

    def parsed(text: str) -> float:
        found = NUMBER.fullmatch(text.strip())
        if found is None or found[2] not in units or not (value := float(found[1]) * units[found[2]]):
            raise typer.BadParameter(f"{text!r} is no number above 0, such as {example}")
        return value

    return parsed


def plan(
    records: Annotated[
        float, typer.Option(parser=number(THOUSANDS, "100M"), metavar="N", help="How many, as 250k, 100M or 10G.")
    ],
    dimension: Annotated[
        int, typer.Option(min=constants.MIN_DIMENSION, max=constants.MAX_DIMENSION, help="Of each vector.")
    ],
    metric: Annotated[MetricName, typer.Option(help="How vectors compare.")] = MetricName.cosine,
    attributes: Annotated[int, typer.Option(min=0, max=1000, help="That each record has.")] = 0,
    attributes_bytes: Annotated[
        int | None,
        typer.Option(
            min=0, max=constants.MOST_ATTRIBUTES_BYTES, help="Of their names and values; 24 for each where not given."
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=100, help="Processes of each shard, at least.")] = 2,
    queries: Annotated[float, typer.Option(min=0, max=1e9, help="Single searches a second, at the peak.")] = 0.0,
    cached: Annotated[float, typer.Option(min=0, max=1, help="The share of the vectors that memory is to hold.")] = 1.0,
    shard_memory: Annotated[
        float | None,
        typer.Option(
            parser=number({**BYTES, **{f"{unit}B": size for unit, size in BYTES.items()}}, "16GiB"),
            metavar="BYTES",
            help="That one shard process may have; 16GiB where not given.",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=constants.SLOTS, help="How many, instead of as few as that and the queries allow."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a number of records takes: shards, memory, disk, start-up time, and values for the chart.

    No server is asked. The figures are made of what was measured; docs/plan.md says how near they are.
    """
    if not 1 <= records <= MOST_RECORDS:
        raise typer.BadParameter(f"{records:,.0f} is not in the range 1 to 10T", param_hint="'--records'")
    if shards is not None and shard_memory is not None:
        raise typer.BadParameter("follows from --shards: give one of them", param_hint="'--shard-memory'")
    if attributes_bytes and not attributes:
        raise typer.BadParameter("of no --attributes", param_hint="'--attributes-bytes'")
    kind = Kind(
        dimension=dimension,
        metric=metric.value,
        attributes=attributes,
        attributes_bytes=24 * attributes if attributes_bytes is None else attributes_bytes,
    )
    asked = Asked(round(records), kind, replicas, queries, cached, shard_memory or 16 * GIB, shards or 0)
    try:
        planned = plan_for(asked)
    except NoPlan as error:
        fail(str(error))
    if as_json:
        print_json(asdict(planned) | {"limit": planned.limit, "values": values(planned)})
        return
    show(planned)
