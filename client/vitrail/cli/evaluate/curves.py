"""The pictures of a report, as SVG."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from vitrail.training.evaluation import Evaluation
    from vitrail.training.ranking import PerQuery

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Okabe and Ito's, which everyone can tell apart."""
MOST_CLASSES = 30


def curves(evaluation: "Evaluation") -> dict[str, str]:
    """Pictures by their titles."""
    from vitrail.training.measures import DEPTH, LEVELS

    depth = min(evaluation.depth or DEPTH, DEPTH)
    steps = range(1, depth + 1)

    def at(measure: str) -> "Callable[[PerQuery], Sequence[float]]":
        return lambda found: [found.measures.mean(f"{measure}@{k}") for k in steps]

    drawn = {
        "P@k: the share of the first k that is relevant": _lines(evaluation, steps, "k", at("P")),
        "recall@k: the share of what is relevant that is among the first k": _lines(
            evaluation, steps, "k", at("recall")
        ),
    }
    if evaluation.depth is None:
        shares = [share / LEVELS for share in range(1, LEVELS + 1)]
        title = "Precision where a share of what is relevant was found"
        drawn = {title: _lines(evaluation, shares, "recall", _precision), **drawn}
    return drawn


def confusion(found: "PerQuery") -> str | None:
    """Labels of queries beside the labels of their first ten; None where there are no labels."""
    labels = np.array([photo.label for photo in found.queries], str)
    names, counts = np.unique(labels[labels != ""], return_counts=True)
    names = np.sort(names[np.argsort(-counts, kind="stable")[:MOST_CLASSES]])
    if not len(names):
        return None
    hits = np.array([photo.label for photo in found.gallery], str)[found.top]
    shares = np.array([[(hits[labels == name] == other).mean() for other in names] for name in names])
    side = 2.5 + 0.45 * len(names)
    picture = Figure(figsize=(side, side), layout="constrained")
    axes = picture.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names.tolist(), rotation=90)
    axes.set_yticks(range(len(names)), names.tolist())
    axes.set_xlabel("label of what was found")
    axes.set_ylabel("label of the query")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
    return _svg(picture)


def _precision(found: "PerQuery") -> Sequence[float]:
    counting = found.measures.relevant > 0
    mean: Sequence[float] = found.measures.precision[counting].mean(axis=0).tolist()
    return mean


def _lines(
    evaluation: "Evaluation", steps: Sequence[float], label: str, values: "Callable[[PerQuery], Sequence[float]]"
) -> str:
    picture = Figure(figsize=(6, 4), layout="constrained")
    axes: Axes = picture.subplots()
    for place, run in enumerate(evaluation.runs):
        colour, style = COLOURS[place % len(COLOURS)], ("-", "--")[place % 2]
        axes.plot(steps, values(run.found), style, color=colour, linewidth=1.8, label=run.name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(label)
    axes.grid(True, color="#d0d0d0", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, fontsize=9)
    return _svg(picture)


def _svg(picture: Figure) -> str:
    """As it stands in a page: without the header of a file."""
    out = io.StringIO()
    picture.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]
