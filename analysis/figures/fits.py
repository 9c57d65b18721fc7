"""Fitted curves of accuracy against compute: solid where there are points, dashed a little beyond, no further."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.design.ablations import Ablation
from analysis.figures.layout import Extra, add_legend, layout
from analysis.figures.style import COLOURS, GREY
from analysis.statistics.arm_fits import ArmFit, Fits
from analysis.statistics.fits import Fit, curve

BEYOND = 1.25  # times the last point's compute
MANY_POINTS = 500  # of seeds in a panel; above, they are an image in the SVG and the PDF: 90 bytes a point otherwise
TITLE = "Accuracy against compute, and where it would end"
COLUMNS = ["arm", "kind", "compute", "value", "low", "high"]
LEGEND = ["a seed", "mean over seeds", "fit", "asymptote, 95%"]


def fitted(ablation: Ablation, fits: Fits | None, notes: Sequence[str], width: float) -> Extra | None:
    """Return the figure with a panel for each arm; None where no arm has a fit."""
    if fits is None or not fits.any_found:
        return None
    about = (
        "R - R0 = (A - R0) / (1 + (C_mid / C)^B), by least squares of the mean; intervals by leaving out a seed at a "
        "time. Dashed: beyond the data."
    )
    grid = layout(TITLE, ablation.arms, 1, LEGEND, [about, *notes], width)
    numbers: list[list[object]] = [[*COLUMNS]]
    for axes, arm in zip(grid.rows[0], fits.arms, strict=True):
        draw(axes, arm)
        axes.set_xlabel(fits.unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        numbers += rows(arm)
    values = [value for arm in fits.arms for seed in arm.seeds for value in seed]
    ends = [arm.found.asymptote.high for arm in fits.arms if isinstance(arm.found, Fit)]
    longest = max(place for arm in fits.arms for place in arm.compute)
    for axes in grid.rows[0]:
        axes.set_xlim(-0.02 * longest, BEYOND * longest * 1.02)
        axes.set_ylim(0, min(1.03, 1.08 * max([*values, *ends])))
    grid.label(0, "validation accuracy")
    add_legend(grid.figure, max(grid.rows[0], key=lambda axes: len(axes.lines)))
    return Extra("fit", TITLE, grid.figure, numbers)


def draw(axes: Axes, arm: ArmFit) -> None:
    """Draw an arm's points and, if there is a fit, its curve; else say why there is none."""
    many = sum(map(len, arm.seeds)) > MANY_POINTS
    for number, seed in enumerate(arm.seeds):
        label = LEGEND[0] if number == 0 else None
        axes.plot(arm.compute, seed, ".", color=COLOURS[0], alpha=0.35, markersize=4, label=label, rasterized=many)
    if arm.seeds:
        axes.plot(
            arm.compute, np.mean(arm.seeds, axis=0), "o", color=COLOURS[0], markersize=4, label=LEGEND[1], zorder=3
        )
    if not isinstance(arm.found, Fit):
        reason = textwrap.fill(f"no fit: {arm.found.reason}", 34)
        axes.text(0.03, 0.96, reason, transform=axes.transAxes, va="top", size=8, color=GREY)
        return
    inside, beyond = lines(arm.found)
    axes.plot(*inside, color=COLOURS[1], linewidth=1.6, label=LEGEND[2])
    axes.plot(*beyond, color=COLOURS[1], linewidth=1.6, linestyle=(0, (3, 2)))
    end = arm.found.asymptote
    reach = [0.0, beyond[0][-1]]
    axes.plot(reach, [end.value] * 2, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    axes.fill_between(reach, end.low, end.high, color=GREY, alpha=0.13, linewidth=0, label=LEGEND[3])
    axes.text(
        0.97,
        0.05,
        f"A = {end.value:.3f} [{end.low:.3f}, {end.high:.3f}]",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        size=8,
        color=GREY,
    )


def lines(fit: Fit) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (compute, accuracy) of the fitted curve where there are points, and a little beyond."""
    first, last = fit.span
    parts = np.linspace(first, last, 80), np.linspace(last, last * BEYOND, 20)
    values = fit.start, fit.asymptote.value, fit.half.value, fit.steepness.value
    inside, beyond = ((part, curve(part, *values)) for part in parts)
    return inside, beyond


def rows(arm: ArmFit) -> list[list[object]]:
    """Return what is drawn of an arm under COLUMNS, and the fit's parameters."""
    means = np.mean(arm.seeds, axis=0).tolist() if arm.seeds else []
    found: list[list[object]] = [
        [arm.label, "mean", repr(x), repr(y), "", ""] for x, y in zip(arm.compute, means, strict=True)
    ]
    if not isinstance(arm.found, Fit):
        return [*found, [arm.label, f"no fit: {arm.found.reason}", "", "", "", ""]]
    for part in lines(arm.found):
        found += [[arm.label, "fit", repr(float(x)), repr(float(y)), "", ""] for x, y in zip(*part, strict=True)]
    for name in ("asymptote", "half", "steepness"):
        value = getattr(arm.found, name)
        found.append([arm.label, name, "", repr(value.value), repr(value.low), repr(value.high)])
    return [*found, [arm.label, "start", "", repr(arm.found.start), "", ""]]
