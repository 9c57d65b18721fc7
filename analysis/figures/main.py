"""Draws one ablation: validation accuracy, training reward, response length and format share, or chosen panels.

The same records give the same bytes: fonts are fixed, and the files hold no dates and no random ids.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm, seeds_text
from analysis.figures.series import Series, View, arm_series, binned, is_validation
from analysis.figures.style import GREY, NARROW, WIDTH, Look, look, styled, text_sizes
from analysis.records.curves import VALIDATION_CURVES, Curves, validation_temperature

# Inches.
PANEL_HEIGHT, LEFT, RIGHT = 2.35, 0.62, 0.18
TITLE, LINE, LEGEND_ROW, BETWEEN, AXIS = 0.36, 0.19, 0.25, 0.72, 0.55
MANY = 6  # seeds
CUT_BANDS = "bands reach beyond the panel"


@dataclass(frozen=True)
class Panel:
    curve: str
    title: str

    @property
    def is_validation(self) -> bool:
        return is_validation(self.curve)


def panels(ablation: Ablation, curves: Mapping[str, Curves], chosen: Sequence[str] = ()) -> list[list[Panel]]:
    """Return the panels row by row; validation has two panels if it was recorded both sampled and greedy.

    `chosen` are curves or metrics to show instead, three panels a row.
    """
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
    if chosen:
        known = {panel.curve: panel for panel in [*validation, *training]}
        wanted = [known.get(name) or Panel(name, textwrap.shorten(name, 44, placeholder="...")) for name in chosen]
        return [wanted[start : start + 3] for start in range(0, len(wanted), 3)]
    if len(validation) == 2:
        return [validation, training]
    return [[validation[0], training[0]], training[1:]]


def draw(
    ablation: Ablation,
    curves: Mapping[str, Curves],
    footer: Sequence[str],
    view: View | None = None,
    chosen: Sequence[str] = (),
    width: float = WIDTH,
    until: int | None = None,
) -> Figure:
    """Return the figure, drawn in whatever style is set; `render` sets ours and saves the figure.

    `until`: the last step that numbers and claims are of, marked by a line, if some run went further.
    """
    rows, view = panels(ablation, curves, chosen), view or View()
    if width < NARROW:
        rows = [[panel] for row in rows for panel in row]
    sizes = text_sizes(width)
    header = textwrap.wrap(ablation.settings(), sizes.wrapped)
    notes = [line for note in footer for line in textwrap.wrap(note, sizes.wrapped)]
    handles = [legend_handle(arm, look(place)) for place, arm in enumerate(ablation.arms)]
    columns = legend_columns([str(handle.get_label()) for handle in handles], width)
    legend_height = LEGEND_ROW * math.ceil(len(handles) / columns) + 0.12

    top = 0.12 + TITLE + LINE * len(header) + legend_height + 0.24
    bottom = AXIS + LINE * len(notes) + 0.1
    height = top + len(rows) * PANEL_HEIGHT + (len(rows) - 1) * BETWEEN + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def down(inches: float) -> float:
        return 1 - inches / height

    left = LEFT / width
    figure.text(0.14 / width, down(0.14), ablation.title, size=sizes.title, weight="bold", va="top")
    for number, line in enumerate(header):
        figure.text(0.14 / width, down(0.12 + TITLE + LINE * number), line, color=GREY, size=sizes.header, va="top")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.14 / width, down(0.18 + TITLE + LINE * len(header))),
        ncols=columns,
        frameon=False,
        handlelength=3,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.6,
    )
    for number, line in enumerate(notes):
        figure.text(0.14 / width, (0.1 + LINE * (len(notes) - 1 - number)) / height, line, color=GREY, size=sizes.note)

    ends = [place for run in ablation.runs for place in view.axis.places(run).values()]
    longest = max(ends, default=0) or 1
    for row_number, row in enumerate(rows):
        base = down(top + row_number * (PANEL_HEIGHT + BETWEEN) + PANEL_HEIGHT)
        cell = (width - LEFT - RIGHT + 0.62) / len(row)
        for place, panel in enumerate(row):
            box = (left + place * cell / width, base, (cell - 0.62) / width, PANEL_HEIGHT / height)
            axes = figure.add_axes(box)
            draw_panel(axes, panel, [arm_series(arm, panel.curve, curves, view) for arm in ablation.arms])
            axes.set_xlim(-0.015 * longest, longest * 1.025)
            if until and view.axis.cost is None:
                axes.axvline(until, color=GREY, linewidth=0.8, linestyle=":")
            whole = view.axis.cost is None
            axes.xaxis.set_major_locator(MaxNLocator(integer=whole, nbins=7, steps=[1, 2, 5, 10]))
            axes.set_xlabel(view.axis.label, labelpad=2)
        share_limits(figure, row)
        for axes in figure.axes[-len(row) :]:
            tell_cut_bands(axes, sizes.note)
    return figure


def draw_panel(axes: Axes, panel: Panel, arms: Sequence[Series]) -> None:
    """Draw every seed of every arm; where an arm has several seeds, also their mean with its interval."""
    axes.set_title(panel.title)
    for place, series in enumerate(arms):
        style = look(place)
        marker = style.marker if panel.is_validation else ""
        faint = bool(series.mean)
        for run, raw, whole in series.seeds:
            shown = whole if panel.is_validation else binned(whole)[0]
            if whole.ys is not raw.ys:
                pale = binned(raw)[0]
                axes.plot(pale.xs, pale.ys, color=style.colour, linewidth=0.7, alpha=0.2)
            axes.plot(
                shown.xs,
                shown.ys,
                color=style.colour,
                linestyle="-" if faint else style.dashes,
                marker="" if faint else marker,
                markersize=4.5,
                markevery=spacing(len(shown.xs)),
                linewidth=(0.9 if len(series.seeds) < MANY else 0.5) if faint else 1.7,
                alpha=(0.35 if len(series.seeds) < MANY else 0.2) if faint else 1,
            )
            if not run.complete:
                axes.plot(shown.xs[-1], shown.ys[-1], marker="x", color=style.colour, markersize=8, markeredgewidth=2)
        if series.mean:
            mean = series.mean if panel.is_validation else binned(series.mean)[0]
            axes.plot(
                mean.xs,
                mean.ys,
                color=style.colour,
                linestyle=style.dashes,
                marker=marker,
                markersize=4.5,
                markevery=spacing(len(mean.xs)),
                linewidth=1.9,
            )
    drawn = any(series.seeds or series.mean for series in arms)
    if not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=GREY)
    set_limits(axes, panel, drawn)
    for place, series in enumerate(arms):  # after the limits are set: a wide band must not squeeze the lines
        if series.low:
            known = series.mean, series.low, series.high
            mean, low, high = known if panel.is_validation else binned(*known)
            alpha = 0.13 if len(series.seeds) < MANY else 0.25  # many lines would hide a pale band
            axes.fill_between(mean.xs, low, high, color=look(place).colour, alpha=alpha, linewidth=0, zorder=0.5)


def spacing(points: int) -> int:
    """Return after how many points of a curve a marker follows: each point of a short curve, about 15 of a long one."""
    return max(1, points // 15)


def set_limits(axes: Axes, panel: Panel, drawn: bool) -> None:
    """Set the limits of y: shares start at 0, with no room above 1; lengths stay close to the data, to show turns."""
    low, high = axes.dataLim.intervaly if drawn else (0.0, 1.0)
    if panel.curve == "length":
        margin = max(0.08 * (high - low), 0.02 * high, 0.5)
        axes.set_ylim(low - margin, high + margin)
    elif panel.curve == "format":
        axes.set_ylim(0, 1.03)
    elif panel.curve not in ("sampled", "greedy", "reward"):
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        axes.set_ylim(low - margin, high + margin)
    else:
        axes.set_ylim(min(0, low * 1.05), max(min(high * 1.12, 1.03) if high <= 1 else high * 1.05, 0.05))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def share_limits(figure: Figure, row: Sequence[Panel]) -> None:
    """Give the validation panels of the row just drawn the same limits, because readers compare them."""
    same = [axes for axes, panel in zip(figure.axes[-len(row) :], row, strict=True) if panel.curve in VALIDATION_CURVES]
    limits = [axes.get_ylim() for axes in same]
    for axes in same:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def tell_cut_bands(axes: Axes, size: float) -> None:
    """Write into a panel that its bands reach beyond it, if one does: they could be taken for narrower ones."""
    low, high = axes.get_ylim()
    reach = [path.get_extents() for band in axes.collections for path in band.get_paths()]
    if any(box.y0 < low or box.y1 > high for box in reach):
        axes.text(0.995, 0.01, CUT_BANDS, size=size, color=GREY, ha="right", va="bottom", transform=axes.transAxes)


def legend_handle(arm: Arm, style: Look) -> Line2D:
    """Return the legend's line for an arm, with the number of its seeds."""
    label = textwrap.shorten(arm.name, 60, placeholder="...") if " " in arm.name else arm.name[:60]
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


def legend_columns(labels: Sequence[str], inches: float = WIDTH) -> int:
    """Return the number of the legend's columns: as many as fit, or fewer if that needs no more rows."""
    width = 0.74 + 0.078 * max(map(len, labels))
    fitting = max(1, min(len(labels), int((inches - 0.3) / width)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fitting))


def render(
    ablation: Ablation,
    curves: Mapping[str, Curves],
    footer: Sequence[str],
    view: View | None = None,
    chosen: Sequence[str] = (),
    kinds: Sequence[str] = ("png", "svg", "pdf"),
    width: float = WIDTH,
    until: int | None = None,
) -> dict[str, bytes]:
    """Return the figure as {"png": ..., "svg": ..., "pdf": ...}; the same records give the same bytes."""
    with styled(small=width < NARROW):
        return save(draw(ablation, curves, footer, view, chosen, width, until), ablation.title, kinds)


def save(figure: Figure, title: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Return {format: the figure's bytes}; they hold neither the date nor the program, so that they stay the same."""
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Title": title, "Date": None, "Creator": None},
        "pdf": {"Title": title, "CreationDate": None, "Creator": None, "Producer": None},
    }
    files = {}
    for kind in kinds:
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata=metadata[kind])
        files[kind] = content.getvalue()
    return files
