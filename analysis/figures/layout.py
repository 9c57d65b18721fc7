"""What the smaller figures of an ablation share: a column for each arm, equal limits, one legend, means over seeds."""

from __future__ import annotations

import math
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
from analysis.figures.style import GREY, LEAST_SIZE, NARROW, text_sizes

# Inches.
COLUMN, ROW, LOW_ROW, LEFT, TOP, BOTTOM = 3.1, 2.0, 1.3, 0.65, 1.15, 0.95
WITHIN, BETWEEN, LINE, LEGEND_ROW = 0.3, 0.95, 0.19, 0.23
TITLE_CHARACTERS = 10  # of a panel's title, an inch: bold letters, most of them small


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


@dataclass(frozen=True)
class Grid:
    """A figure with a panel for each arm in each row; where they do not fit side by side, they stand in blocks."""

    figure: Figure
    rows: list[list[Axes]]
    """Row by row, a panel for each arm."""
    columns: int
    """How many arms stand side by side."""

    def label(self, row: int, text: str) -> None:
        """Write what the y axes of a row of panels show, at the first panel of each block."""
        for axes in self.rows[row][:: self.columns]:
            axes.set_ylabel(text)


def layout(
    title: str, arms: Sequence[Arm], rows: int, legend: Sequence[str], notes: Sequence[str], width: float
) -> Grid:
    """Return a figure of `width` inches with a column for each arm, as many side by side as fit, and its notes.

    `legend`: the entries that `add_legend` will show.
    """
    columns = min(len(arms), max(1, round((width - LEFT) / COLUMN)))
    blocks = math.ceil(len(arms) / columns)
    lines = [line for note in notes for line in textwrap.wrap(note, text_sizes(width).wrapped)]
    row_height = ROW if width >= NARROW else LOW_ROW
    block = rows * row_height + (rows - 1) * WITHIN
    bottom = BOTTOM + LINE * (len(lines) - 1)
    height = top_of(legend, width) + blocks * block + (blocks - 1) * BETWEEN + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    cell = (width - LEFT) / columns
    grid: list[list[Axes]] = [[] for _ in range(rows)]
    for place, arm in enumerate(arms):
        down, across = divmod(place, columns)
        for row in range(rows):
            base = bottom + (blocks - 1 - down) * (block + BETWEEN) + (rows - 1 - row) * (row_height + WITHIN)
            box = ((LEFT + across * cell) / width, base / height, (cell - 0.35) / width, row_height / height)
            axes = figure.add_axes(box)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
            axes.tick_params(labelleft=not across, labelbottom=row == rows - 1)
            grid[row].append(axes)
        seeds = f" ({len(arm.averaged)}\N{NO-BREAK SPACE}seeds)" if len(arm.averaged) > 1 else ""
        grid[0][-1].set_title(panel_title(f"{arm.name}{seeds}", cell))
    add_title(figure, title)
    add_notes(figure, lines)
    return Grid(figure, grid, columns)


def panel_title(text: str, width: float) -> str:
    """Return a panel's title on one line, or on two lines if one of `width` inches can't hold it."""
    lines = textwrap.wrap(text, int(width * TITLE_CHARACTERS))
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"{lines[1][:-3]}..."])


def add_title(figure: Figure, title: str) -> None:
    """Write the figure's title at the top, in smaller letters if it is too long for the figure's width."""
    width, height = figure.get_size_inches()
    text = figure.text(0.14 / width, 1 - 0.12 / height, title, size=text_sizes(width).title, weight="bold", va="top")
    needed = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width / figure.dpi
    text.set_fontsize(max(LEAST_SIZE, text.get_fontsize() * min(1.0, (width - 0.28) / needed)))


def side_by_side(legend: Sequence[str], width: float) -> int:
    """Return how many entries of a legend stand in a row: at most five, and in as few rows as that takes."""
    fitting = max(1, min(5, int((width - 0.3) / (0.5 + 0.075 * max(map(len, legend), default=1)))))
    return math.ceil(len(legend) / math.ceil(len(legend) / fitting)) if legend else 1


def top_of(legend: Sequence[str], width: float) -> float:
    """Return the height of title and legend in inches; TOP has room for two rows of the legend."""
    return TOP + LEGEND_ROW * max(0, math.ceil(len(legend) / side_by_side(legend, width)) - 2)


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes` under the title."""
    width, height = figure.get_size_inches()
    place = (0.14 / width, 1 - 0.45 / height)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=place,
        ncols=side_by_side(labels, width),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.8,
    )


def notes_of(ablation: Ablation) -> list[str]:
    """Return what is said below a figure: what the arms share, and whether they are a miniature."""
    return ["; ".join(filter(None, (ablation.settings(), *miniature(ablation))))]


def add_notes(figure: Figure, lines: Sequence[str]) -> None:
    """Write these lines at the bottom."""
    width, height = figure.get_size_inches()
    size = text_sizes(width).note
    for number, line in enumerate(reversed(lines)):
        figure.text(0.14 / width, (0.12 + LINE * number) / height, line, color=GREY, size=size)


def same_limits(row: Sequence[Axes]) -> None:
    """Give all axes of a row the same limits."""
    limits = [axes.dataLim.intervaly for axes in row if axes.lines and len(axes.lines[0].get_xdata())]  # type: ignore[arg-type]
    low, high = min((limit[0] for limit in limits), default=0.0), max((limit[1] for limit in limits), default=1.0)
    for axes in row:
        axes.set_ylim(low - 0.06 * (high - low) - 0.5, high + 0.06 * (high - low) + 0.5)
