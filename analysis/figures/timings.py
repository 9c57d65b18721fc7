"""Where a step's time goes: a bar for each arm, a colour for each phase."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.figures.layout import BOTTOM, TOP, Extra, add_legend, add_note, mean_of
from analysis.figures.style import COLOURS

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


def efficiency(ablation: Ablation) -> Extra | None:
    """Return stacked bars: each arm's mean seconds in each phase of a step, with its tokens a second beside them.

    veRL's throughput is that of one device. None if no run recorded the phases.
    """
    rows = [(arm, phase_seconds(arm)) for arm in ablation.arms]
    phases = [phase for phase in (*PHASES, REST) if any(seconds.get(phase, 0) > 0 for _, seconds in rows)]
    if not phases:
        return None
    height = TOP + 0.42 * len(rows) + BOTTOM
    figure = Figure(figsize=(9.6, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, BOTTOM / height, 0.78, 1 - (TOP + BOTTOM) / height))
    numbers: list[list[object]] = [["arm", *phases, "step", "tokens a second and device"]]
    for place, (arm, seconds) in enumerate(rows):
        left = 0.0
        for phase in phases:
            width = seconds.get(phase, 0.0)
            number = -1 if phase == REST else COLOUR_ORDER.index(phase)  # a phase has the same colour in every figure
            colour = "#BBBBBB" if phase == REST else COLOURS[number % len(COLOURS)]
            label = phase if place == 0 else None
            hatch = "//" if number >= len(COLOURS) else None
            axes.barh(place, width, left=left, height=0.62, color=colour, label=label, hatch=hatch, edgecolor="white")
            left += width
        tokens = mean_of(arm, "perf/throughput")
        speed = f", {tokens:,.0f} tokens/s a {device(arm)}" if tokens else ""
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


def device(arm: Arm) -> str:
    """Return what veRL counts as one device: a GPU, or a process that trains on a CPU."""
    kinds = {run.config.get("trainer.device") or run.config.get("hardware.name") for run in arm.runs}
    return "CPU process" if kinds == {"cpu"} else "GPU"


def phase_seconds(arm: Arm) -> dict[str, float]:
    """Return {phase: its mean seconds in a step}; REST is the time that no phase accounts for."""
    for prefix in TIMINGS:
        if whole := mean_of(arm, f"{prefix}step"):
            seconds = {phase: mean_of(arm, f"{prefix}{phase}") or 0.0 for phase in PHASES}
            return seconds | {REST: max(0.0, whole - sum(seconds.values()))}
    return {}
