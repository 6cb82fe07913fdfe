"""What an evaluation says, as figures: for tables, JSON and the page."""

from typing import TYPE_CHECKING, Any

import typer

from vitrail.cli.common import print_table

if TYPE_CHECKING:
    from vitrail.training.evaluation import Evaluation
    from vitrail.training.summary import Difference, Interval, Row

BY_CLASS = ("AP", "P@10", "hit@1")


class Figures:
    """The means of each run, and what a second one differs by from the first."""

    def __init__(self, evaluation: "Evaluation") -> None:
        from vitrail.training.summary import compare, summary

        self.evaluation = evaluation
        self.rows: dict[str, list[Row]] = {run.name: summary(run.found, evaluation.measures) for run in evaluation.runs}
        first, *others = evaluation.runs
        self.differences: dict[str, dict[str, Difference]] = {
            run.name: compare(first.found, run.found, evaluation.measures) for run in others if self.counting
        }

    @property
    def counting(self) -> int:
        """Queries that means count."""
        return next(iter(self.rows.values()))[0].queries

    @property
    def heading(self) -> str:
        """What was done, in a line."""
        found = self.evaluation.runs[0].found
        of = f" of {len(found.queries):,}" if self.counting < len(found.queries) else ""
        return f"{self.counting:,} queries{of} against {len(found.gallery):,} photos, {self.evaluation.metric}"

    def totals(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: a measure a row."""
        from vitrail.training.summary import NAMES

        others = list(self.differences)
        columns = ["", *self.rows, *(f"{name} − {next(iter(self.rows))}" for name in others), *("p" for _ in others)]
        rows = []
        for measure in self.evaluation.measures:
            values = [shown(rows[0].values[measure]) for rows in self.rows.values()]
            values += [shown(self.differences[name][measure].interval, "+") for name in others]
            values += [f"{self.differences[name][measure].p_value:.3f}" for name in others]
            rows.append([NAMES.get(measure, measure), *values])
        return columns, rows

    def classes(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: a class a row."""
        from vitrail.training.summary import NAMES

        measures = [measure for measure in BY_CLASS if measure in self.evaluation.measures]
        columns = ["class", "queries"]
        columns += [f"{NAMES.get(measure, measure)}, {name}" for measure in measures for name in self.rows]
        by_name = [{row.name: row for row in rows[1:]} for rows in self.rows.values()]
        rows = [
            [name, f"{row.queries:,}", *(shown(of[name].values[each]) for each in measures for of in by_name)]
            for name, row in by_name[0].items()
        ]
        return columns, rows

    def show(self) -> None:
        """Print everything."""
        evaluation = self.evaluation
        if evaluation.failed:
            print_table(["file", "why"], [(error.path, error.message) for error in evaluation.failed])
        typer.echo(f"{self.heading}; in brackets: 95 % confidence")
        print_table(*self.totals())
        columns, rows = self.classes()
        if rows:
            print_table(columns, rows)
        for note in evaluation.notes:
            typer.echo(note)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        evaluation, found = self.evaluation, self.evaluation.runs[0].found
        return {
            "metric": evaluation.metric,
            "queries": len(found.queries),
            "counting": self.counting,
            "gallery": len(found.gallery),
            "depth": evaluation.depth,
            "runs": [
                {
                    "name": name,
                    "total": _values(total),
                    "classes": {row.name: {"queries": row.queries, **_values(row)} for row in classes},
                }
                for name, (total, *classes) in self.rows.items()
            ],
            "differences": {
                name: {
                    measure: {**found.interval._asdict(), "p_value": found.p_value}
                    for measure, found in differences.items()
                }
                for name, differences in self.differences.items()
            },
            "notes": evaluation.notes,
            "failed": evaluation.failed,
        }


def shown(interval: "Interval", sign: str = "") -> str:
    """A mean and its interval."""
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _values(row: "Row") -> dict[str, Any]:
    from vitrail.training.summary import NAMES

    # A mean of nothing is no number, and JSON has none for it.
    return {
        NAMES.get(measure, measure): interval._asdict() if row.queries else None
        for measure, interval in row.values.items()
    }
