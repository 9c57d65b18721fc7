"""The article's other figures, one column an arm: what responses are made of, what they say, where the time goes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.ablations import Ablation
from analysis.arms import Arm
from analysis.captions import miniature
from analysis.rollouts import PHRASES, Shares
from analysis.series import View
from analysis.style import COLOURS, DASHES, GREY

ACCURACY, FORMAT, LENGTH = "reward/acc/mean", "reward/format/mean", "response_length/mean"
# Correct, formatted but wrong, wrong format: apart in lightness too.
SHARES = (("correct", "#0072B2"), ("formatted but wrong", "#E69F00"), ("wrong format", "#BBBBBB"))
PHASES = ("gen", "old_log_prob", "ref", "values", "reward", "adv", "update_critic", "update_actor", "update_weights")
COLOUR_ORDER = (
    "gen",
    "update_actor",
    "old_log_prob",
    "ref",
    "adv",
    "update_critic",
    "values",
    "reward",
    "update_weights",
)
TIMINGS = ("timing_s/", "timing/")  # how the names of the phases begin, in later and earlier veRL
REST = "rest (sampling beside the trainer, data)"
COLUMN, ROW, LEFT, TOP, BOTTOM = 3.1, 2.0, 0.65, 1.15, 0.95


@dataclass(frozen=True)
class Extra:
    """A figure beside an ablation's main one."""

    name: str
    title: str
    figure: Figure
    numbers: list[list[object]]
    """What is drawn, for a CSV file; the first row has the headers."""


def extras(
    ablation: Ablation,
    view: View | None = None,
    said: Mapping[str, Shares] | None = None,
    phrases: Sequence[str] = PHRASES,
) -> list[Extra]:
    """Return the figures for which the runs recorded anything; `said` are the shares of `phrases` by run."""
    view = view or View()
    made = (composition(ablation, view), phrase_shares(ablation, view, said or {}, phrases), efficiency(ablation))
    return [extra for extra in made if extra is not None]


def composition(ablation: Ablation, view: View) -> Extra | None:
    """Return the stacked shares of the training responses along the axis, mean length below; as oat-zero shows it."""
    parts = {}
    for arm in ablation.arms:
        places = arm_places(arm, view)
        correct, formatted, lengths = (mean_over_runs(arm, metric) for metric in (ACCURACY, FORMAT, LENGTH))
        steps = sorted(set(correct) & set(formatted) & set(places))
        right = [correct[step] for step in steps]
        wrong = [formatted[step] - correct[step] for step in steps]
        shares = [right, wrong, [1 - formatted[s] for s in steps]]
        parts[arm.label] = steps, shares, {step: y for step, y in lengths.items() if step in places}
    if not any(steps for steps, _, _ in parts.values()):
        return None
    figure, grid = layout("What the training responses are", ablation.arms, 2)
    numbers: list[list[object]] = [["arm", "step", "x", *(name for name, _ in SHARES), "length"]]
    for place, arm in enumerate(ablation.arms):
        steps, shares, lengths = parts[arm.label]
        places = arm_places(arm, view)
        top, below = grid[0][place], grid[1][place]
        if steps:
            xs = [places[step] for step in steps]
            top.stackplot(xs, shares, labels=[n for n, _ in SHARES], colors=[c for _, c in SHARES], linewidth=0)
        top.set_ylim(0, 1)
        below.plot([places[step] for step in lengths], list(lengths.values()), color="#000000", linewidth=1.4)
        below.set_xlabel(view.axis.label)
        for number, step in enumerate(steps):
            cells = [*(repr(share[number]) for share in shares), repr(lengths.get(step, ""))]
            numbers.append([arm.label, step, f"{places[step]:.10g}", *cells])
    grid[0][0].set_ylabel("share")
    grid[1][0].set_ylabel("mean length, tokens")
    same_limits(grid[1])
    add_legend(figure, next(axes for axes in grid[0] if axes.collections))
    add_note(figure, ablation)
    return Extra("composition", "What the training responses are", figure, numbers)


def phrase_shares(ablation: Ablation, view: View, said: Mapping[str, Shares], phrases: Sequence[str]) -> Extra | None:
    """Return the share of training responses that hold each phrase; phrases that never occur are left out."""
    shares = {arm.label: [said.get(run.name, {}) for run in arm.averaged] for arm in ablation.arms}
    every = [row for runs in shares.values() for run in runs for row in run.values()]
    used = [place for place in range(len(phrases)) if any(row[place] for row in every)]
    if not used:
        return None
    figure, grid = layout("What the training responses say", ablation.arms, 1)
    numbers: list[list[object]] = [["arm", "step", "x", *(phrases[place] for place in used)]]
    for column, arm in enumerate(ablation.arms):
        runs = [run for run in shares[arm.label] if run]
        places = arm_places(arm, view)
        steps = sorted(set.intersection(set(places), *(set(run) for run in runs))) if runs else []
        means = {step: [sum(run[step][place] for run in runs) / len(runs) for place in used] for step in steps}
        for number, place in enumerate(used):
            grid[0][column].plot(
                [places[step] for step in steps],
                [means[step][number] for step in steps],
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number % len(DASHES)],
                label=f'"{phrases[place]}"',
                linewidth=1.5,
            )
        numbers += [[arm.label, step, f"{places[step]:.10g}", *map(repr, means[step])] for step in steps]
        grid[0][column].set_xlabel(view.axis.label)
        grid[0][column].set_ylim(0, 1.03)
    grid[0][0].set_ylabel("share of responses")
    add_legend(figure, next(axes for axes in grid[0] if axes.lines))
    add_note(figure, ablation)
    return Extra("phrases", "What the training responses say", figure, numbers)


def efficiency(ablation: Ablation) -> Extra | None:
    """Return the mean seconds of a step's phases for each arm, as stacked bars with the tokens a second beside them.

    veRL's throughput is that of one GPU.
    """
    rows = [(arm, phase_seconds(arm)) for arm in ablation.arms]
    phases = [phase for phase in (*PHASES, REST) if any(seconds.get(phase, 0) > 0 for _, seconds in rows)]
    if not phases:
        return None
    height = TOP + 0.42 * len(rows) + BOTTOM
    figure = Figure(figsize=(9.6, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, BOTTOM / height, 0.78, 1 - (TOP + BOTTOM) / height))
    numbers: list[list[object]] = [["arm", *phases, "step", "tokens a second and GPU"]]
    for place, (arm, seconds) in enumerate(rows):
        left = 0.0
        for phase in phases:
            width = seconds.get(phase, 0.0)
            number = -1 if phase == REST else COLOUR_ORDER.index(phase)  # the same in every figure
            colour = "#BBBBBB" if phase == REST else COLOURS[number % len(COLOURS)]
            label = phase if place == 0 else None
            hatch = "//" if number >= len(COLOURS) else None
            axes.barh(place, width, left=left, height=0.62, color=colour, label=label, hatch=hatch, edgecolor="white")
            left += width
        tokens = mean_of(arm, "perf/throughput")
        speed = f", {tokens:,.0f} tokens/s a GPU" if tokens else ""
        axes.text(left, place, f"  {left:.3g} s{speed}", va="center")
        cells = [repr(seconds.get(phase, 0.0)) for phase in phases]
        numbers.append([arm.label, *cells, repr(left), repr(tokens or "")])
    axes.set_yticks(range(len(rows)), [arm.title or arm.label for arm, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(sum(seconds.values()) for _, seconds in rows))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds a step (mean)")
    figure.text(0.014, 1 - 0.12 / height, "Where the time goes", size=15, weight="bold", va="top")
    add_legend(figure, axes)
    add_note(figure, ablation)
    return Extra("efficiency", "Where the time goes", figure, numbers)


def phase_seconds(arm: Arm) -> dict[str, float]:
    """Return the mean seconds of each phase of a step; what a step takes beyond them is the rest."""
    for prefix in TIMINGS:
        if whole := mean_of(arm, f"{prefix}step"):
            seconds = {phase: mean_of(arm, f"{prefix}{phase}") or 0.0 for phase in PHASES}
            return seconds | {REST: max(0.0, whole - sum(seconds.values()))}
    return {}


def mean_of(arm: Arm, metric: str) -> float | None:
    """Return the mean of a metric over all steps of all runs of an arm, None without any."""
    values = [value for run in arm.runs for _, value in run.history.curve(metric)]
    return sum(values) / len(values) if values else None


def mean_over_runs(arm: Arm, metric: str) -> dict[int, float]:
    """Return the mean over the averaged seeds at the steps that every run with the metric has."""
    return mean_by_step([dict(curve) for run in arm.averaged if (curve := run.history.curve(metric))])


def arm_places(arm: Arm, view: View) -> dict[int, float]:
    """Return {step: how far along the axis it is}, the mean over the averaged seeds that know it."""
    return mean_by_step([places for run in arm.averaged if (places := view.axis.places(run))])


def mean_by_step(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean at the steps that all of them have."""
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return {step: sum(curve[step] for curve in curves) / len(curves) for step in common}


def layout(title: str, arms: Sequence[Arm], rows: int) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a column an arm, and its axes row by row."""
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
    """Put the legend of `axes` in a line under the title."""
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
    """Say at the bottom what the arms share, and that a miniature is one: a figure travels without its page."""
    width, height = figure.get_size_inches()
    note = "; ".join(filter(None, (ablation.settings(), *miniature(ablation))))
    figure.text(0.14 / width, 0.12 / height, textwrap.shorten(note, int(width * 14)), color=GREY, size=8.5)


def same_limits(row: Sequence[Axes]) -> None:
    """Give the axes of a row one scale."""
    limits = [axes.dataLim.intervaly for axes in row if axes.lines and len(axes.lines[0].get_xdata())]  # type: ignore[arg-type]
    low, high = min((limit[0] for limit in limits), default=0.0), max((limit[1] for limit in limits), default=1.0)
    for axes in row:
        axes.set_ylim(low - 0.06 * (high - low) - 0.5, high + 0.06 * (high - low) + 0.5)
