"""Draws one ablation: validation accuracy, training reward, response length and format share by step.

The same records give the same bytes: fixed fonts, no dates, no random ids.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.ablations import Ablation
from analysis.arms import Arm
from analysis.curves import Curves, mean_curve, validation_temperature
from analysis.tables import seeds_text

# Okabe and Ito's colours, told apart by every kind of colour vision; yellow is left out, it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Any: matplotlib's stubs list every key as a literal.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "r1-zero-ablations",
    "svg.fonttype": "path",
    "path.simplify": False,
}
GREY = "#444444"

# Inches.
WIDTH, PANEL_HEIGHT, LEFT, RIGHT = 9.6, 2.35, 0.62, 0.18
TITLE, LINE, LEGEND_ROW, BETWEEN, AXIS = 0.36, 0.19, 0.25, 0.72, 0.55
CHARACTERS = 118


@dataclass(frozen=True)
class Look:
    """How an arm is drawn, the same in every panel."""

    colour: str
    dashes: tuple[float, tuple[float, ...]]
    marker: str


@dataclass(frozen=True)
class Panel:
    curve: str
    title: str

    @property
    def is_validation(self) -> bool:
        return self.curve in ("sampled", "greedy")


def look(place: int) -> Look:
    """Return the look of the arm at `place`; 280 arms pass before one repeats."""
    return Look(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


def panels(ablation: Ablation, curves: Mapping[str, Curves]) -> list[list[Panel]]:
    """Return the panels row by row; validation gets a second panel where both ways of decoding were recorded."""
    runs = ablation.runs
    temperatures = {validation_temperature(run) for run in runs}
    temperature = temperatures.pop() if len(temperatures) == 1 else None
    how = {"sampled": f"sampled at T={temperature:g}" if temperature else "sampled", "greedy": "greedy"}
    score = "accuracy" if all(curves[run.name].scores_accuracy for run in runs) else "reward"
    recorded = [name for name in ("sampled", "greedy") if any(curves[run.name][name] for run in runs)]
    validation = [Panel(name, f"Validation {score}, {how[name]}") for name in recorded]
    validation = validation or [Panel("sampled", f"Validation {score}")]
    training = [
        Panel("reward", "Training reward"),
        Panel("length", "Response length, tokens"),
        Panel("format", "Format share, training"),
    ]
    if len(validation) == 2:
        return [validation, training]
    return [[validation[0], training[0]], training[1:]]


def draw(ablation: Ablation, curves: Mapping[str, Curves], footer: Sequence[str]) -> Figure:
    """Return the figure; `render` calls it with the style set and saves it."""
    rows = panels(ablation, curves)
    header = textwrap.wrap(ablation.settings(), CHARACTERS)
    notes = [line for note in footer for line in textwrap.wrap(note, CHARACTERS)]
    handles = [legend_handle(arm, look(place)) for place, arm in enumerate(ablation.arms)]
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    legend_height = LEGEND_ROW * math.ceil(len(handles) / columns) + 0.12

    top = 0.12 + TITLE + LINE * len(header) + legend_height + 0.24
    bottom = AXIS + LINE * len(notes) + 0.1
    height = top + len(rows) * PANEL_HEIGHT + (len(rows) - 1) * BETWEEN + bottom
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)

    def down(inches: float) -> float:
        return 1 - inches / height

    left = LEFT / WIDTH
    figure.text(0.14 / WIDTH, down(0.14), ablation.title, size=15, weight="bold", va="top")
    for number, line in enumerate(header):
        figure.text(0.14 / WIDTH, down(0.12 + TITLE + LINE * number), line, color=GREY, size=9.5, va="top")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.14 / WIDTH, down(0.18 + TITLE + LINE * len(header))),
        ncols=columns,
        frameon=False,
        handlelength=3,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.6,
    )
    for number, line in enumerate(notes):
        figure.text(0.14 / WIDTH, (0.1 + LINE * (len(notes) - 1 - number)) / height, line, color=GREY, size=8.5)

    longest = max((step for run in ablation.runs for step in run.history.rows), default=0)
    longest = max(longest, 1)
    for row_number, row in enumerate(rows):
        base = down(top + row_number * (PANEL_HEIGHT + BETWEEN) + PANEL_HEIGHT)
        cell = (WIDTH - LEFT - RIGHT + 0.62) / len(row)
        for place, panel in enumerate(row):
            box = (left + place * cell / WIDTH, base, (cell - 0.62) / WIDTH, PANEL_HEIGHT / height)
            axes = figure.add_axes(box)
            draw_panel(axes, panel, ablation, curves)
            axes.set_xlim(-0.015 * longest, longest * 1.025)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))
            axes.set_xlabel("step", labelpad=2)
        share_limits(figure, row)
    return figure


def draw_panel(axes: Axes, panel: Panel, ablation: Ablation, curves: Mapping[str, Curves]) -> None:
    """Draw every seed of every arm, and the mean over seeds where there are several."""
    axes.set_title(panel.title)
    drawn = False
    for place, arm in enumerate(ablation.arms):
        style = look(place)
        seeds = [curves[run.name][panel.curve] for run in arm.runs]
        mean = mean_curve(seeds)
        marker = style.marker if panel.is_validation else ""
        for run, seed in zip(arm.runs, seeds, strict=True):
            if not seed:
                continue
            drawn = True
            steps, values = zip(*seed, strict=True)
            faint = bool(mean)
            axes.plot(
                steps,
                values,
                color=style.colour,
                linestyle="-" if faint else style.dashes,
                marker="" if faint else marker,
                markersize=4.5,
                markevery=spacing(len(seed)),
                linewidth=0.9 if faint or len(seed) > 150 else 1.7,
                alpha=0.4 if faint else 1,
            )
            if not run.complete:
                axes.plot(steps[-1], values[-1], marker="x", color=style.colour, markersize=8, markeredgewidth=2)
        if mean:
            steps, values = zip(*mean, strict=True)
            axes.plot(
                steps,
                values,
                color=style.colour,
                linestyle=style.dashes,
                marker=marker,
                markersize=4.5,
                markevery=spacing(len(mean)),
                linewidth=1.1 if len(mean) > 150 else 1.9,
            )
    if not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=GREY)
    set_limits(axes, panel, drawn)


def spacing(points: int) -> int:
    """Return every how many points of a curve bear a marker: all of a short one, about 15 of a long one."""
    return max(1, points // 15)


def set_limits(axes: Axes, panel: Panel, drawn: bool) -> None:
    """Shares start at 0 and never leave room above 1; the length's axis need not start at 0, its turns matter."""
    low, high = axes.dataLim.intervaly if drawn else (0.0, 1.0)
    if panel.curve == "length":
        margin = max(0.08 * (high - low), 0.02 * high, 0.5)
        axes.set_ylim(low - margin, high + margin)
    elif panel.curve == "format":
        axes.set_ylim(0, 1.03)
    else:
        axes.set_ylim(min(0, low * 1.05), max(min(high * 1.12, 1.03) if high <= 1 else high * 1.05, 0.05))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def share_limits(figure: Figure, row: Sequence[Panel]) -> None:
    """Give the validation panels of the row just drawn one scale: they are read against each other."""
    same = [axes for axes, panel in zip(figure.axes[-len(row) :], row, strict=True) if panel.is_validation]
    limits = [axes.get_ylim() for axes in same]
    for axes in same:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def legend_handle(arm: Arm, style: Look) -> Line2D:
    """Return the legend's line for an arm, with the number of its seeds."""
    label = textwrap.shorten(arm.label, 60, placeholder="...") if " " in arm.label else arm.label[:60]
    started = any(run.history.rows for run in arm.runs)
    note = seeds_text(arm) if started else "no step yet"
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=4.5,
        linewidth=1.7,
        label=f"{label} ({note})",
    )


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many legend entries fit beside each other; entries are filled column by column."""
    width = 0.74 + 0.078 * max(map(len, labels))
    fitting = max(1, min(len(labels), int((WIDTH - 0.3) / width)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fitting))


def render(ablation: Ablation, curves: Mapping[str, Curves], footer: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the figure as (PNG, SVG); the same records give the same bytes with the same matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change the figures
        mpl.rcParams.update(STYLE)
        figure = draw(ablation, curves, footer)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Title": ablation.title, "Date": None})
    return png.getvalue(), svg.getvalue()
