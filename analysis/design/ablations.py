"""The comparisons that a set of runs allows: one ablation for each factor, around one baseline."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from analysis.design.arms import KNOBS, Arm, Factor, companions, find_factors, level_order, level_text, setting
from analysis.design.sweeps import level_place, sweep_of
from analysis.records.record import RunRecord
from experiments.config.sweep_files import Sweep
from experiments.store.events import State

ARTICLES_BASELINE = {
    "algorithm.adv_estimator": "grpo",
    "rollout.temperature": 1.0,
    "rollout.n": 5,
    "kl.coef": 0.001,
}
Levels = tuple[Hashable, ...]
Cells = dict[Levels, list[RunRecord]]


@dataclass(frozen=True)
class Ablation:
    """What one figure shows: arms that differ in its factors; and the runs that it leaves out."""

    name: str
    """How the names of its files begin."""
    title: str
    factors: tuple[Factor, ...]
    """Empty for a single arm."""
    arms: tuple[Arm, ...]
    companions: tuple[str, ...]
    """Other config keys that differ between the runs when the factors do."""
    left_out: tuple[tuple[RunRecord, str], ...]
    """(run, why it is not in this figure)."""
    sweep: Sweep | None = None
    """The sweep file that varies this factor, if there is one."""

    @property
    def runs(self) -> list[RunRecord]:
        return [run for arm in self.arms for run in arm.runs]

    def why_left_out(self) -> list[tuple[RunRecord, str]]:
        """Return (run, what is left out and why): first the unfinished runs of this figure, then the runs not in it."""
        parts = []
        for arm in self.arms:
            for run in arm.runs:
                if not run.complete:
                    short = "; too short for the arm's mean" if run not in arm.averaged else ""
                    what = f"drawn up to a cross; left out of the numbers and the claims{short}"
                    parts.append((run, f"{run.progress()}: {what if run.history.rows else 'nothing to draw'}"))
        return [*parts, *self.left_out]

    def settings(self) -> str:
        """Return the knobs that are the same in all its runs, e.g. "GRPO, n=5, kl=0.001, model=tiny"."""
        parts = []
        for knob in KNOBS:
            levels = {knob.level(run) for run in self.runs}
            if knob.key not in self.runs[0].config or len(levels) > 1 or levels == {"constant"}:
                continue
            text = level_text(knob, next(iter(levels)))
            parts.append(text if knob.short == "algorithm" else f"{knob.short}={text}")
        return ", ".join(parts)


def find_ablations(records: Sequence[RunRecord], sweeps: Sequence[Sweep] = ()) -> list[Ablation]:
    """Return one ablation for each factor that varies, our knobs first; one ablation if nothing varies.

    If several factors vary, the figure of a factor holds the runs that are like the baseline in all other factors. If
    a sweep file varies the factor, it gives the figure's title, and the order and the titles of the arms.
    """
    factors = find_factors(records)
    cells: Cells = {}
    for record in records:
        cells.setdefault(tuple(factor.level(record) for factor in factors), []).append(record)
    reasons: dict[str, str] = {}
    for levels, runs in cells.items():
        cells[levels] = one_per_seed(runs, reasons)

    baseline = find_baseline(cells)
    drawn = choose_arms(cells, factors, baseline)
    names = [file_name(varied, [run for levels in chosen for run in cells[levels]]) for varied, chosen in drawn]
    shown_in = {
        run.name: f"in {name}"
        for name, (_, chosen) in zip(names, drawn, strict=True)
        for levels in chosen
        for run in cells[levels]
    }
    for levels, runs in cells.items():
        reasons |= {run.name: too_far(factors, levels, baseline) for run in runs if run.name not in shown_in}

    ablations = []
    for name, (varied, chosen) in zip(names, drawn, strict=True):
        sweep = sweep_of(varied, sweeps)
        arms = make_arms(cells, factors, varied, chosen, sweep, baseline)
        inside = [run for arm in arms for run in arm.runs]
        left_out = [record for record in records if record not in inside]
        ablations.append(
            Ablation(
                name=name,
                title=(sweep.title if sweep else " and ".join(factor.title for factor in varied))
                or ("One run" if len(inside) == 1 else "One setting"),
                factors=varied,
                arms=arms,
                companions=tuple(companions(inside, varied)),
                left_out=tuple((run, reasons.get(run.name) or shown_in[run.name]) for run in left_out),
                sweep=sweep,
            )
        )
    return ablations


def find_baseline(cells: Cells) -> Levels:
    """Return the arm from which the most other arms differ in one factor alone.

    If several arms are equal in this, the one most like the article's baseline wins, then the one with the most runs.
    An arm that has begun to train comes before all that have not, so that no figure is empty.
    """

    def centrality(levels: Levels) -> tuple[bool, int, int, int]:
        neighbours = sum(distance(levels, other) == 1 for other in cells)
        runs = cells[levels]
        alike = sum(setting(runs[0], key) == value for key, value in ARTICLES_BASELINE.items())
        return any(run.history.rows for run in runs), neighbours, alike, len(runs)

    return max(cells, key=centrality)


def choose_arms(
    cells: Cells, factors: Sequence[Factor], baseline: Levels
) -> list[tuple[tuple[Factor, ...], list[Levels]]]:
    """Return (the factors varied, the arms) of each figure: one figure a factor, around the baseline.

    If no other arm differs from the baseline in one factor alone, one figure shows all arms side by side.
    """
    drawn: list[tuple[tuple[Factor, ...], list[Levels]]] = []
    for place, factor in enumerate(factors):
        others = [i for i in range(len(factors)) if i != place]
        chosen = [levels for levels in cells if all(levels[i] == baseline[i] for i in others)]
        if len(chosen) > 1:
            drawn.append(((factor,), chosen))
    return drawn or [(tuple(factors), list(cells))]


def make_arms(
    cells: Cells,
    factors: Sequence[Factor],
    varied: Sequence[Factor],
    chosen: Sequence[Levels],
    sweep: Sweep | None,
    baseline: Levels,
) -> tuple[Arm, ...]:
    """Return the chosen arms, labelled by the factors varied: first the sweep's arms in its order, then all others."""
    places = [factors.index(factor) for factor in varied]

    def order(levels: Levels) -> tuple[int, list[tuple[int, float, str]]]:
        known = level_place(sweep, levels[places[0]]) if sweep else None
        by_level = [level_order(factors[place], levels[place]) for place in places]
        return (len(sweep.levels) if sweep and known is None else known or 0), by_level

    arms = []
    for levels in sorted(chosen, key=order):
        own = tuple(levels[place] for place in places)
        known = level_place(sweep, own[0]) if sweep else None
        title = sweep.levels[known].label if sweep and known is not None else ""
        label = assignment(varied, own) or arm_name(cells[levels])
        arms.append(Arm(label, tuple(cells[levels]), own, title, levels == baseline))
    return tuple(arms)


def too_far(factors: Sequence[Factor], levels: Levels, baseline: Levels) -> str:
    """Return why an arm that differs from the baseline in several factors is in no figure."""
    apart = [place for place in range(len(factors)) if levels[place] != baseline[place]]
    theirs = assignment([factors[place] for place in apart], [levels[place] for place in apart])
    base = assignment([factors[place] for place in apart], [baseline[place] for place in apart])
    return f"{theirs} differs from the baseline ({base}) in more than one setting; name the runs to compare just them"


def one_per_seed(runs: Sequence[RunRecord], reasons: dict[str, str]) -> list[RunRecord]:
    """Return the runs sorted by seed, one run a seed: the one that got furthest.

    `reasons` gets the name of each run that is left out, with the reason.

    A run without a seed (veRL's default) drew a seed of its own, so it is kept: it repeats no other run.
    """
    best: dict[str, RunRecord] = {}
    for run in sorted(
        runs, key=lambda run: (-run.history.last_step(), run.state not in (State.FINISHED, State.RUNNING), run.name)
    ):
        kept = best.setdefault(f"run {run.name}" if run.seed is None else str(run.seed), run)
        if kept is not run:
            reasons[run.name] = f"same settings and seed as {kept.name}, which got as far or further"
    return sorted(
        best.values(),
        key=lambda run: (not isinstance(run.seed, int), run.seed if isinstance(run.seed, int) else str(run.seed or "")),
    )


def distance(one: Levels, other: Levels) -> int:
    """Return in how many factors two arms differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def assignment(factors: Sequence[Factor], levels: Sequence[Hashable]) -> str:
    """Return e.g. "temperature=1.2, n=8"."""
    return ", ".join(f"{f.short}={level_text(f, level)}" for f, level in zip(factors, levels, strict=True))


def arm_name(runs: Sequence[RunRecord]) -> str:
    """Return a name for an arm that varies no factor: the name of its run if it has just one."""
    return runs[0].name if len(runs) == 1 else "all runs"


def file_name(factors: Sequence[Factor], runs: Sequence[RunRecord]) -> str:
    """Return how the names of a figure's files begin; any file system takes the name."""
    stem = "-".join(factor.file_name for factor in factors) or (runs[0].name if len(runs) == 1 else "runs")
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", stem)[:80]
