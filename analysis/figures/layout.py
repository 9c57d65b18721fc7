"""What the smaller figures of an ablation share: a column for each arm, equal limits, one legend, means over seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.figures.captions import miniature
from analysis.figures.series import View
from analysis.figures.style import GREY

COLUMN, ROW, LEFT, TOP, BOTTOM = 3.1, 2.0, 0.65, 1.15, 0.95


@dataclass(frozen=True)
class Extra:
    """A figure of an ablation that is not its main one."""

    name: str
    title: str
    figure: Figure
    numbers: list[list[object]]
    """What is drawn, for a CSV file; the first row has the headers."""


def mean_of(arm: Arm, metric: str) -> float | None:
    """Return the mean of a metric over all steps of all runs of an arm, None if no run recorded it."""
    values = [value for run in arm.runs for _, value in run.history.curve(metric)]
    return sum(values) / len(values) if values else None


def mean_over_runs(arm: Arm, metric: str) -> dict[int, float]:
    """Return {step: the mean over the averaged seeds}, at the steps that every run with the metric has."""
    return mean_by_step([dict(curve) for run in arm.averaged if (curve := run.history.curve(metric))])


def arm_places(arm: Arm, view: View) -> dict[int, float]:
    """Return {step: how far along the axis it is}, the mean over the averaged seeds that recorded it."""
    return mean_by_step([places for run in arm.averaged if (places := view.axis.places(run))])


def mean_by_step(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return {step: the mean of the curves}, at the steps that all curves have."""
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return {step: sum(curve[step] for curve in curves) / len(curves) for step in common}


def layout(title: str, arms: Sequence[Arm], rows: int) -> tuple[Figure, list[list[Axes]]]:
    """Return (a figure with a column for each arm, its axes row by row)."""
    width, height = LEFT + COLUMN * len(arms), TOP + rows * ROW + (rows - 1) * 0.3 + BOTTOM
    figure = Figure(figsize=(max(width, 7.5), height))
    FigureCanvasAgg(figure)
    width = max(width, 7.5)
    grid = [
        [
            figure.add_axes(
                (
                    (LEFT + column * COLUMN) / width,
                    (BOTTOM + (rows - 1 - row) * (ROW + 0.3)) / height,
                    (COLUMN - 0.35) / width,
                    ROW / height,
                )
            )
            for column in range(len(arms))
        ]
        for row in range(rows)
    ]
    for row in grid:
        for place, axes in enumerate(row):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
            if place:
                axes.tick_params(labelleft=False)
    for arm, axes in zip(arms, grid[0], strict=True):
        seeds = f" ({len(arm.averaged)} seeds)" if len(arm.averaged) > 1 else ""
        axes.set_title(f"{arm.title or arm.label}{seeds}")
    for axes in [axes for row in grid[:-1] for axes in row]:
        axes.tick_params(labelbottom=False)
    figure.text(0.14 / width, 1 - 0.12 / height, title, size=15, weight="bold", va="top")
    return figure, grid


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes` under the title, in rows of at most five entries."""
    width, height = figure.get_size_inches()
    place = (0.14 / width, 1 - 0.45 / height)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=place,
        ncols=min(len(labels), 5),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.8,
    )


def add_note(figure: Figure, ablation: Ablation) -> None:
    """Write at the bottom what the arms share, and whether they are a miniature: readers may see only the figure."""
    width, height = figure.get_size_inches()
    note = "; ".join(filter(None, (ablation.settings(), *miniature(ablation))))
    figure.text(0.14 / width, 0.12 / height, textwrap.shorten(note, int(width * 14)), color=GREY, size=8.5)


def same_limits(row: Sequence[Axes]) -> None:
    """Give all axes of a row the same limits."""
    limits = [axes.dataLim.intervaly for axes in row if axes.lines and len(axes.lines[0].get_xdata())]  # type: ignore[arg-type]
    low, high = min((limit[0] for limit in limits), default=0.0), max((limit[1] for limit in limits), default=1.0)
    for axes in row:
        axes.set_ylim(low - 0.06 * (high - low) - 0.5, high + 0.06 * (high - low) + 0.5)
