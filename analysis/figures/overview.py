"""One figure of all ablations: the response length and the validation score of each, as the article prints them.

An ablation is a column, with the length above the score. In a narrow figure it is a row.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.design.ablations import Ablation
from analysis.figures.captions import miniature
from analysis.figures.layout import LINE, Extra, add_notes
from analysis.figures.main import Panel, draw_panel, legend_handle, panels, tell_cut_bands
from analysis.figures.series import Series, View, arm_series
from analysis.figures.style import NARROW, WIDTH, look, text_sizes
from analysis.records.curves import Curves

TITLE = "The ablations"
BANDS = "Bands: 95% interval of the mean over seeds (Student's t)."
# Inches.
LEFT, RIGHT, GAP, HEAD, ENTRY, HEIGHT, WITHIN, FOOT = 0.72, 0.1, 0.5, 0.34, 0.17, 1.6, 0.25, 0.62
MOST_COLUMNS = 4


@dataclass(frozen=True)
class Part:
    """An ablation, and {run name: its curves}."""

    ablation: Ablation
    curves: Mapping[str, Curves]

    def panels(self) -> tuple[Panel, Panel]:
        """Return what stands above and what below: the response length, and the validation score."""
        score = panels(self.ablation, self.curves)[0][0]
        return Panel("length", "Response length, tokens"), Panel(score.curve, score.title)


def overview(parts: Sequence[Part], view: View, width: float = WIDTH, noted: bool = True) -> Extra:
    """Return the figure of two or more ablations, drawn in whatever style is set, and its numbers.

    The numbers are a row for each point of a mean: ablation, curve, arm, step, mean, low, high, seeds. An arm of one
    seed has its line in place of a mean, and no interval.
    """
    stacked = width >= NARROW
    columns = math.ceil(len(parts) / math.ceil(len(parts) / MOST_COLUMNS)) if stacked else 1
    blocks = [parts[start : start + columns] for start in range(0, len(parts), columns)]
    sizes = text_sizes(width)
    said = [*dict.fromkeys(note for part in parts for note in miniature(part.ablation))]
    banded = any(len(arm.averaged) > 1 for part in parts for arm in part.ablation.arms)
    text = " ".join([BANDS, *said] if banded else said)
    notes = textwrap.wrap(text, sizes.wrapped) if noted else []

    heads = [HEAD + ENTRY * max(len(part.ablation.arms) for part in block) for block in blocks]
    below = 0.12 + LINE * len(notes)
    tall = (2 * HEIGHT + WITHIN if stacked else HEIGHT) + FOOT
    height = sum(heads) + len(blocks) * tall + below
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    cell = (width - LEFT - RIGHT + GAP) / columns
    numbers: list[list[object]] = [["ablation", "curve", "arm", "step", "mean", "low", "high", "seeds"]]
    top = height
    for block, head in zip(blocks, heads, strict=True):
        for place, part in enumerate(block):
            left = LEFT + place * cell
            name = textwrap.shorten(part.ablation.title, max(12, int(cell * 11)), placeholder="...")
            figure.text(
                (left - 0.1) / width, (top - 0.1) / height, name, size=sizes.header + 1, weight="bold", va="top"
            )
            handles = [legend_handle(arm, look(number)) for number, arm in enumerate(part.ablation.arms)]
            figure.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=((left - 0.1) / width, (top - 0.3) / height),
                fontsize=sizes.note,
                frameon=False,
                handlelength=2.6,
                borderpad=0,
                borderaxespad=0,
                labelspacing=0.25,
            )
            numbers += _draw_part(figure, part, view, (left, top - head, cell - GAP), stacked, place == 0)
        top -= head + tall
    for upper in (0, 1):  # readers compare the panels of a row
        same = figure.axes[upper::2]
        limits = [axes.get_ylim() for axes in same]
        for axes in same:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
            tell_cut_bands(axes, sizes.note)
    add_notes(figure, notes)
    return Extra("overview", TITLE, figure, numbers)


def runs_shown(parts: Sequence[Part]) -> list[list[object]]:
    """Return a row for each run of each ablation: ablation, arm, seed, run, its last step."""
    rows: list[list[object]] = [["ablation", "arm", "seed", "run", "step"]]
    for part in parts:
        for arm in part.ablation.arms:
            for run in arm.runs:
                rows.append([part.ablation.title, arm.label, run.seed, run.name, run.history.last_step()])
    return rows


def _without_seeds(series: Series) -> Series:
    """Return a series whose mean stands for its finished runs; there is no room for a line of each."""
    return replace(series, seeds=[seed for seed in series.seeds if not series.mean or not seed[0].complete])


def _draw_part(
    figure: Figure, part: Part, view: View, place: tuple[float, float, float], stacked: bool, labelled: bool
) -> list[list[object]]:
    """Draw an ablation's two panels under (left, top) within a width, all in inches; return their numbers."""
    width, height = figure.get_size_inches()
    left, top, wide = place
    numbers: list[list[object]] = []
    longest = max((x for run in part.ablation.runs for x in view.axis.places(run).values()), default=0) or 1
    panel_width = wide if stacked else (wide - LEFT) / 2
    for number, panel in enumerate(part.panels()):
        row, across = (number, 0) if stacked else (0, number)
        base = top - (row + 1) * HEIGHT - row * WITHIN
        box = left + across * (panel_width + LEFT), base, panel_width, HEIGHT
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        arms = [arm_series(arm, panel.curve, part.curves, view) for arm in part.ablation.arms]
        draw_panel(axes, panel, [_without_seeds(series) for series in arms])
        axes.set_title("")
        axes.set_xlim(-0.015 * longest, longest * 1.025)
        whole = view.axis.cost is None
        axes.xaxis.set_major_locator(
            MaxNLocator(integer=whole, nbins=max(3, int(panel_width * 2)), steps=[1, 2, 5, 10])
        )
        last = number == 1 or not stacked
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(view.axis.label, labelpad=2)
        if labelled:
            axes.set_ylabel(panel.title.replace(", ", ",\n"))
        for arm, series in zip(part.ablation.arms, arms, strict=True):
            line = series.mean or (series.seeds[0][2] if len(series.seeds) == 1 else series.mean)
            for point, (step, value) in enumerate(zip(line.steps, line.ys, strict=True)):
                low, high, count = (
                    (series.low[point], series.high[point], series.count[point]) if series.mean else (None, None, 1)
                )
                bounds = [None if bound is None or math.isnan(bound) else bound for bound in (low, high)]
                numbers.append([part.ablation.title, panel.curve, arm.label, step, value, *bounds, count])
    return numbers
