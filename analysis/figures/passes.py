"""pass@k: by step, and against k with the base model beside the trained one.

A model that only says more often what it said before gains at k = 1, and not at a large k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.figures.layout import Extra, Grid, add_legend, arm_places, layout
from analysis.figures.series import View
from analysis.figures.style import COLOURS, DASHES, GREY, MARKERS
from analysis.records.passes import Passes
from analysis.statistics.intervals import Interval
from analysis.statistics.pass_at import LOGGED, PassCurve, base_and_trained, by_step
from experiments.pass_at import shown

COLUMNS = ["arm", "step", "k", "value", "low", "high", "problems", "seeds", "from"]
MARKED = 9  # points of a curve that get markers


def passes_of(arm: Arm, passes: Mapping[str, Passes]) -> list[Passes]:
    """Return what the averaged runs of an arm recorded; [] if one of them recorded nothing."""
    found = [passes.get(run.name, Passes()) for run in arm.averaged]
    return found if all(run.validated or run.evaluated or run.logged for run in found) else []


def by_k(ablation: Ablation, passes: Mapping[str, Passes], notes: Sequence[str], width: float) -> Extra | None:
    """Return pass@k against k for each arm, base beside trained; None if no run has two answers to a problem."""
    pairs = {arm.label: base_and_trained(passes_of(arm, passes)) for arm in ablation.arms}
    curves = [curve for pair in pairs.values() for curve in pair if curve]
    if not any(len(curve.by_k) > 1 for curve in curves):
        return None
    title, legend = "pass@k of the base and of the trained model", ["base model", "trained"]
    grid = layout(title, ablation.arms, 1, legend, [*about(curves), *notes], width)
    numbers: list[list[object]] = [[*COLUMNS]]
    for axes, arm in zip(grid.rows[0], ablation.arms, strict=True):
        for place, (curve, name) in enumerate(zip(pairs[arm.label], legend, strict=True)):
            if curve is None:
                continue
            colour = (GREY, COLOURS[0])[place]
            marked = [k - 1 for k in shown(curve.by_k)] if curve.problems else None
            draw(axes, list(curve.by_k), list(curve.by_k.values()), colour, 1 - place, name, marked)
            numbers += rows(arm, curve)
        trained = pairs[arm.label][1]
        if trained:
            axes.text(
                0.98, 0.04, f"trained: step {trained.step}", transform=axes.transAxes, ha="right", size=8, color=GREY
            )
        of_k(axes, max((k for curve in curves for k in curve.by_k), default=1))
    finish(grid, "pass@k", curves)
    return Extra("pass-at-k", title, grid.figure, numbers)


def over_steps(
    ablation: Ablation,
    view: View,
    passes: Mapping[str, Passes],
    wanted: Sequence[int],
    notes: Sequence[str],
    width: float,
) -> Extra | None:
    """Return pass@k by step for each arm, for the k `wanted`, or 1, 2, 4 ...; None if there is nothing but k = 1."""
    found = {arm.label: by_step(passes_of(arm, passes), wanted or None) for arm in ablation.arms}
    curves = [curve for own in found.values() for curve in own]
    known = {k: None for curve in curves for k in curve.by_k}
    ks = [k for k in wanted if k in known] if wanted else shown(known)
    if not ks or max(known) == 1:
        return None
    names = [f"pass@{k}" for k in ks]
    grid = layout("pass@k in validation", ablation.arms, 1, names, [*about(curves), *notes], width)
    numbers: list[list[object]] = [[*COLUMNS]]
    for axes, arm in zip(grid.rows[0], ablation.arms, strict=True):
        places = arm_places(arm, view)
        for place, k in enumerate(ks):
            points = [(places[c.step], c.by_k[k]) for c in found[arm.label] if k in c.by_k and c.step in places]
            if points:
                xs, ys = zip(*points, strict=True)
                draw(axes, xs, ys, COLOURS[place % len(COLOURS)], place, names[place])
        axes.set_xlabel(view.axis.label)
        numbers += [row for curve in found[arm.label] for row in rows(arm, curve) if row[2] in ks]
    finish(grid, "pass@k", curves)
    return Extra("pass-by-step", "pass@k in validation", grid.figure, numbers)


def draw(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[Interval],
    colour: str,
    place: int,
    name: str,
    marked: list[int] | None = None,
) -> None:
    """Draw a line with its band. `marked`: which points get a marker; None: every one, or some of many."""
    axes.plot(
        xs,
        [y.value for y in ys],
        color=colour,
        linestyle=DASHES[place % len(DASHES)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=3.5,
        markevery=marked or max(1, len(xs) // MARKED),
        linewidth=1.6,
        label=name,
    )
    axes.fill_between(xs, [y.low for y in ys], [y.high for y in ys], color=colour, alpha=0.15, linewidth=0)


def of_k(axes: Axes, most: int) -> None:
    """Make x a logarithmic axis of k with its powers of two."""
    axes.set_xscale("log", base=2)
    powers = [2**i for i in range(most.bit_length())]
    axes.xaxis.set_major_locator(FixedLocator(powers[:: max(1, len(powers) // 6)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xlabel("k")


def finish(grid: Grid, label: str, curves: Sequence[PassCurve]) -> None:
    """Give all panels one y axis, and the figure its legend."""
    high = max((y.high for curve in curves for y in curve.by_k.values()), default=1.0)
    for axes in grid.rows[0]:
        axes.set_ylim(0, min(1.03, high * 1.06 + 0.02))
    grid.label(0, label)
    add_legend(grid.figure, max(grid.rows[0], key=lambda axes: len(axes.lines)))


def about(curves: Sequence[PassCurve]) -> list[str]:
    """Return what the numbers are of, and what the bands say."""
    said = []
    for source in dict.fromkeys(curve.source for curve in curves):
        own = [curve for curve in curves if curve.source == source]
        if source == LOGGED:
            said.append("pass@k as the trainer logged it; bands: 95% over seeds.")
        else:
            most = max(max(curve.by_k) for curve in own)
            over = "problems and seeds" if max(curve.seeds for curve in own) > 1 else "problems"
            said.append(
                f"Unbiased pass@k from {source} ({most} to each of {own[0].problems} problems); bands: 95% over {over}."
            )
    return said


def rows(arm: Arm, curve: PassCurve) -> list[list[object]]:
    """Return a curve's numbers under COLUMNS."""
    ends = [curve.problems or "", curve.seeds, curve.source]
    return [[arm.label, curve.step, k, repr(y.value), repr(y.low), repr(y.high), *ends] for k, y in curve.by_k.items()]
