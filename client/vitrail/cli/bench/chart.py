"""The picture: recall against throughput, Vitrail beside FAISS in process."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vitrail.cli.bench.figures import Figures, Point
from vitrail.cli.bench.sweep import front

# Okabe and Ito's blue and vermilion, which everyone can tell apart; and another marker each.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"))
LOWEST_RECALL = 0.5
DPI = 150


def draw(figures: Figures, path: Path) -> None:
    """Write it as PNG.

    Raises:
        OSError: It cannot be written.
    """
    setting = figures.setting
    picture = Figure(figsize=(8, 5.2), layout="constrained")
    axes = picture.subplots()
    curves = {
        f"Vitrail through gRPC, {setting.shards} shards, batches of {setting.batch}": figures.curve,
        f"FAISS in process, one thread, batches of {setting.batch}": figures.alone_curve,
    }
    for (label, points), (colour, marker) in zip(curves.items(), STYLES, strict=True):
        best = [point for point in front(points) if point.recall >= LOWEST_RECALL]
        others = [point for point in points if point not in best and point.recall >= LOWEST_RECALL]
        axes.plot(*_xy(best), color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
        axes.plot(*_xy(others), color=colour, marker=marker, markersize=3.5, linestyle="none", alpha=0.3)
        for exact in (point for point in points if point.exact):
            axes.plot(*_xy([exact]), color=colour, marker="D", markersize=8, linestyle="none", markeredgecolor="black")
        for default in (point for point in points if point.default and point.recall >= LOWEST_RECALL):
            axes.plot(
                *_xy([default]), color=colour, marker="*", markersize=13, linestyle="none", markeredgecolor="black"
            )
    for marker, label in (("*", "defaults"), ("D", "exact")):
        axes.plot([], [], color="white", marker=marker, linestyle="none", markeredgecolor="black", label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("recall@10")
    axes.set_ylabel("queries/s (log scale)")
    axes.grid(True, which="major", color="#d0d0d0", linewidth=0.7)
    axes.grid(True, which="minor", color="#ececec", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=True, fontsize=9)
    axes.set_title(
        f"{setting.data}: {setting.vectors:,} vectors, {setting.dimension:,} dimensions, {setting.metric}\n"
        f"{setting.machine}",
        fontsize=10,
        loc="left",
    )
    picture.savefig(path, dpi=DPI, format="png")


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.recall for point in points], [point.per_second for point in points]
