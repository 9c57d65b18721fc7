"""Where a step's time goes: a bar for each arm, a colour for each phase."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.figures.layout import BOTTOM, LINE, Extra, add_legend, add_notes, add_title, mean_of, top_of
from analysis.figures.style import COLOURS, NARROW, WIDTH, text_sizes

PHASES = (
    *("gen", "old_log_prob", "ref", "values", "reward", "adv", "update_critic", "update_actor", "update_weights"),
    "save_checkpoint",
)
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
    "save_checkpoint",
)

TIMINGS = ("timing_s/", "timing/")  # how the names of the phases begin, in later and earlier veRL

REST = "rest"


def efficiency(ablation: Ablation, notes: Sequence[str] = (), width: float = WIDTH) -> Extra | None:
    """Return stacked bars: each arm's mean seconds in each phase of a step, with its tokens a second beside them.

    veRL's throughput is that of one device; a narrow figure leaves it to the CSV. None if no run recorded the phases.
    """
    rows = [(arm, phase_seconds(arm)) for arm in ablation.arms]
    phases = [phase for phase in (*PHASES, REST) if any(seconds.get(phase, 0) > 0 for _, seconds in rows)]
    if not phases:
        return None
    lines = [line for note in notes for line in textwrap.wrap(note, text_sizes(width).wrapped)]
    names = [textwrap.shorten(arm.name, 26, placeholder="...") for arm, _ in rows]
    top, bottom = top_of(phases, width), BOTTOM + LINE * (len(lines) - 1)
    height = top + 0.42 * len(rows) + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    left = (0.2 + 0.075 * max(map(len, names)) * (0.75 if width < NARROW else 1)) / width
    axes = figure.add_axes((left, bottom / height, 0.98 - left, 1 - (top + bottom) / height))
    numbers: list[list[object]] = [["arm", *phases, "step", "tokens a second and device"]]
    for place, (arm, seconds) in enumerate(rows):
        end = 0.0
        for phase in phases:
            length = seconds.get(phase, 0.0)
            number = -1 if phase == REST else COLOUR_ORDER.index(phase)  # a phase has the same colour in every figure
            colour = "#BBBBBB" if phase == REST else COLOURS[number % len(COLOURS)]
            label = phase if place == 0 else None
            hatch = "//" if number >= len(COLOURS) else None
            axes.barh(place, length, left=end, height=0.62, color=colour, label=label, hatch=hatch, edgecolor="white")
            end += length
        tokens = mean_of(arm, "perf/throughput")
        speed = f", {tokens:,.0f} tokens/s a {device(arm)}" if tokens and width >= NARROW else ""
        axes.text(end, place, f"  {end:.3g} s{speed}", va="center")
        cells = [repr(seconds.get(phase, 0.0)) for phase in phases]
        numbers.append([arm.label, *cells, repr(end), repr(tokens or "")])
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, (1.3 if width < NARROW else 1.5) * max(sum(seconds.values()) for _, seconds in rows))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds a step (mean)")
    add_title(figure, "Where the time goes")
    add_legend(figure, axes)
    add_notes(figure, lines)
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
