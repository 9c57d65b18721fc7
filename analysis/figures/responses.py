"""The article's other figures: how many responses are right, what they say, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.design.ablations import Ablation
from analysis.figures import fits, passes
from analysis.figures.layout import Extra, add_legend, arm_places, layout, mean_over_runs, notes_of, same_limits
from analysis.figures.series import View
from analysis.figures.style import COLOURS, DASHES, WIDTH
from analysis.figures.timings import efficiency
from analysis.records.passes import Passes
from analysis.records.rollouts import PHRASES, Shares
from analysis.statistics.arm_fits import Fits

ACCURACY, FORMAT, LENGTH = "reward/acc/mean", "reward/format/mean", "response_length/mean"
# The three colours differ in lightness too, for print in grey.
SHARES = (("correct", "#0072B2"), ("formatted but wrong", "#E69F00"), ("wrong format", "#BBBBBB"))


def extras(
    ablation: Ablation,
    view: View | None = None,
    said: Mapping[str, Shares] | None = None,
    phrases: Sequence[str] = PHRASES,
    width: float = WIDTH,
    noted: bool = True,
    passed: Mapping[str, Passes] | None = None,
    pass_at: Sequence[int] = (),
    found: Fits | None = None,
) -> list[Extra]:
    """Return the figures for which the runs recorded data, `width` inches wide.

    Args:
        said: {run: the shares of `phrases`}.
        noted: whether notes are written below them.
        passed: {run: how many of its answers to each problem were right}.
        pass_at: the k of pass@k by step; none: 1, 2, 4 ...
        found: the arms' fits of accuracy against compute.
    """
    view, notes = view or View(), notes_of(ablation) if noted else []
    made = (
        composition(ablation, view, notes, width),
        phrase_shares(ablation, view, said or {}, phrases, notes, width),
        efficiency(ablation, notes, width),
        passes.by_k(ablation, passed or {}, notes, width),
        passes.over_steps(ablation, view, passed or {}, pass_at, notes, width),
        fits.fitted(ablation, found, notes, width),
    )
    return [extra for extra in made if extra is not None]


def composition(ablation: Ablation, view: View, notes: Sequence[str], width: float) -> Extra | None:
    """Return the stacked shares of correct, formatted and other training responses, and their mean length below.

    oat-zero shows its runs in this way. None if no run recorded the shares.
    """
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
    names = [name for name, _ in SHARES]
    grid = layout("What the training responses are", ablation.arms, 2, names, notes, width)
    numbers: list[list[object]] = [["arm", "step", "x", *names, "length"]]
    for place, arm in enumerate(ablation.arms):
        steps, shares, lengths = parts[arm.label]
        places = arm_places(arm, view)
        top, below = grid.rows[0][place], grid.rows[1][place]
        if steps:
            xs = [places[step] for step in steps]
            top.stackplot(xs, shares, labels=names, colors=[c for _, c in SHARES], linewidth=0)
        top.set_ylim(0, 1)
        below.plot([places[step] for step in lengths], list(lengths.values()), color="#000000", linewidth=1.4)
        below.set_xlabel(view.axis.label)
        for number, step in enumerate(steps):
            cells = [*(repr(share[number]) for share in shares), repr(lengths.get(step, ""))]
            numbers.append([arm.label, step, f"{places[step]:.10g}", *cells])
    grid.label(0, "share")
    grid.label(1, "mean length, tokens")
    same_limits(grid.rows[1])
    add_legend(grid.figure, next(axes for axes in grid.rows[0] if axes.collections))
    return Extra("composition", "What the training responses are", grid.figure, numbers)


def phrase_shares(
    ablation: Ablation,
    view: View,
    said: Mapping[str, Shares],
    phrases: Sequence[str],
    notes: Sequence[str],
    width: float,
) -> Extra | None:
    """Return the share of training responses that contain each phrase; phrases that never occur are left out."""
    shares = {arm.label: [said.get(run.name, {}) for run in arm.averaged] for arm in ablation.arms}
    every = [row for runs in shares.values() for run in runs for row in run.values()]
    used = [place for place in range(len(phrases)) if any(row[place] for row in every)]
    if not used:
        return None
    names = [f'"{phrases[place]}"' for place in used]
    grid = layout("What the training responses say", ablation.arms, 1, names, notes, width)
    numbers: list[list[object]] = [["arm", "step", "x", *(phrases[place] for place in used)]]
    for column, arm in enumerate(ablation.arms):
        runs = [run for run in shares[arm.label] if run]
        places = arm_places(arm, view)
        steps = sorted(set.intersection(set(places), *(set(run) for run in runs))) if runs else []
        means = {step: [sum(run[step][place] for run in runs) / len(runs) for place in used] for step in steps}
        for number in range(len(used)):
            grid.rows[0][column].plot(
                [places[step] for step in steps],
                [means[step][number] for step in steps],
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number % len(DASHES)],
                label=names[number],
                linewidth=1.5,
            )
        numbers += [[arm.label, step, f"{places[step]:.10g}", *map(repr, means[step])] for step in steps]
        grid.rows[0][column].set_xlabel(view.axis.label)
        grid.rows[0][column].set_ylim(0, 1.03)
    grid.label(0, "share of responses")
    add_legend(grid.figure, next(axes for axes in grid.rows[0] if axes.lines))
    return Extra("phrases", "What the training responses say", grid.figure, numbers)
