"""The page of an evaluation: tables, curves, what is confused, and the best and the worst queries as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from vitrail.cli import gallery
from vitrail.cli.evaluate.curves import confusion, curves
from vitrail.cli.evaluate.figures import Figures

if TYPE_CHECKING:
    from vitrail.training.evaluation import Evaluation, Run
    from vitrail.training.ranking import PerQuery

SHOWN = 5
"""Queries of each end."""


def write(path: Path, figures: Figures) -> None:
    """Write the page, its pictures inside.

    Raises:
        OSError: It cannot be written.
    """
    evaluation = figures.evaluation
    environment = Environment(loader=PackageLoader("vitrail.cli.evaluate", ""), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(
        style=Markup(gallery.STYLE),
        figures=figures,
        evaluation=evaluation,
        curves={title: Markup(svg) for title, svg in curves(evaluation).items()} if figures.counting else {},
        confusions={run.name: Markup(svg) for run in evaluation.runs if (svg := confusion(run.found))},
        galleries={
            f"{which} queries, {run.name}": Markup("".join(map(gallery.section, rows)))
            for run in evaluation.runs
            for which, rows in zip(("best", "worst"), _ends(evaluation, run), strict=True)
        },
    )
    path.write_text(page, encoding="utf-8")


def _ends(evaluation: "Evaluation", run: "Run") -> tuple[list[gallery.Row], list[gallery.Row]]:
    """Of queries that count, those of the highest AP and those of the lowest."""
    precision = run.found.measures.of("AP")
    order = np.argsort(precision, kind="stable")[: int((~np.isnan(precision)).sum())]
    best, worst = order[::-1][:SHOWN], order[: min(SHOWN, max(0, len(order) - SHOWN))]
    rows = [[_row(evaluation, run.found, int(query)) for query in some] for some in (best, worst)]
    return rows[0], rows[1]


def _row(evaluation: "Evaluation", found: "PerQuery", query: int) -> gallery.Row:
    photo = found.queries[query]
    hits = zip(found.top[query], found.scores[query], found.right[query], strict=True)
    return gallery.Row(
        f"{photo.label or photo.id}: AP {found.measures.ap[query]:.3f}",
        evaluation.picture(photo),
        [
            gallery.Picture(
                f"{score:.4f}\n{found.gallery[place].id}", evaluation.picture(found.gallery[place]), bool(right)
            )
            for place, score, right in hits
        ],
    )
