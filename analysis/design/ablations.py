"""The comparisons that a set of runs allows: one ablation for each factor, around one baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.design.arms import Arm
from analysis.design.baseline import Levels, check_named
from analysis.design.factors import KNOBS, PROVENANCE, Factor, companions, setting, varying_keys
from analysis.design.groups import Group, Grouping, group_runs
from analysis.design.levels import level_order, level_text, level_texts, told_apart
from analysis.design.sweeps import level_place, level_title, sweep_of
from analysis.records.record import RunRecord
from experiments.config.sweep_files import Sweep
from experiments.store.selection import Condition


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
            text = level_text(knob.key, next(iter(levels)))
            parts.append(text if knob.short == "algorithm" else f"{knob.short}={text}")
        return ", ".join(parts)


def find_ablations(
    records: Sequence[RunRecord], sweeps: Sequence[Sweep] = (), named: Sequence[Condition] = ()
) -> list[Ablation]:
    """Return one ablation for each comparison that the runs allow, that which shows the most first.

    `analysis.design.groups` says which runs are compared. If a sweep file varies the factor, it gives the figure's
    title, and the order and the titles of the arms. `named`: conditions that the baseline meets.
    """
    check_named(records, named)
    grouping = group_runs(records, named)
    names = file_names(grouping.groups)
    shown_in: dict[str, list[str]] = {}
    for name, group in zip(names, grouping.groups, strict=True):
        for run in group.runs:
            shown_in.setdefault(run.name, []).append(name)
    ablations = []
    for name, group in zip(names, grouping.groups, strict=True):
        sweep = sweep_of(group.factors, list(group.cells.values()), sweeps)
        arms = make_arms(group, sweep)
        inside = [run for arm in arms for run in arm.runs]
        left_out = [record for record in records if record not in inside]
        ablations.append(
            Ablation(
                name=name,
                title=(sweep.title if sweep else " and ".join(factor.title for factor in group.factors))
                or ("One run" if len(inside) == 1 else "One setting"),
                factors=group.factors,
                arms=arms,
                companions=tuple(companions(inside, group.factors)),
                left_out=tuple((run, why_not_here(run, grouping, shown_in)) for run in left_out),
                sweep=sweep,
            )
        )
    return ablations


def why_not_here(run: RunRecord, grouping: Grouping, shown_in: Mapping[str, Sequence[str]]) -> str:
    """Return why a run is not in a figure that others are in."""
    if run.name in shown_in:
        return f"in {' and '.join(shown_in[run.name])}"
    alone = "no other run differs from it in one setting alone; name the runs to compare just them"
    return grouping.twice.get(run.name) or grouping.apart.get(run.name) or alone


def make_arms(group: Group, sweep: Sweep | None) -> tuple[Arm, ...]:
    """Return the arms, labelled by the factors varied, by the size of their levels.

    Levels that are no numbers are in the sweep's order, and then by the alphabet.
    """
    pairs = [pair for levels in group.cells for pair in zip(group.factors, levels, strict=True)]
    numbers = len(group.factors) == 1 and all(level_order(factor.key, level)[0] == 0 for factor, level in pairs)

    def order(levels: Levels) -> tuple[int, list[tuple[int, float, str]]]:
        known = level_place(sweep, group.cells[levels]) if sweep and not numbers else None
        by_level = [level_order(factor.key, level) for factor, level in zip(group.factors, levels, strict=True)]
        return (len(sweep.levels) if sweep and known is None else known or 0), by_level

    chosen = sorted(group.cells, key=order)
    texts = [level_texts(f.key, [levels[place] for levels in chosen]) for place, f in enumerate(group.factors)]
    labels = [
        ", ".join(f"{factor.short}={own[number]}" for factor, own in zip(group.factors, texts, strict=True))
        or arm_name(group.cells[levels])
        for number, levels in enumerate(chosen)
    ]
    arms = []
    for label, levels in zip(told_apart(labels), chosen, strict=True):
        runs = group.cells[levels]
        title = level_title(sweep, runs, label.partition("=")[2]) if sweep else ""
        arms.append(Arm(label, tuple(runs), levels, title, levels == group.baseline))
    return tuple(arms)


def file_names(groups: Sequence[Group]) -> list[str]:
    """Return how the names of the groups' files begin.

    The first group of a factor has the factor's name; a later one also what tells its runs from those of the first.
    """
    names: list[str] = []
    first: dict[str, Group] = {}
    for group in groups:
        name = file_name(group.factors, group.runs)
        if (other := first.setdefault(name, group)) is not group:
            own, others = group.cells[group.baseline][0], other.cells[other.baseline][0]
            values = [(key, level_text(key, setting(own, key))) for key in varying_keys([own, others])]
            keys = [f"{key}={text}" for key, text in values if key not in PROVENANCE and len(text) < 24]
            where = "-".join(keys[:2])
            name = clean(f"{name}-{where}") if where else name
        number = sum(known == name or known.startswith(f"{name}--") for known in names)
        names.append(f"{name}--{number + 1}" if number else name)
    return names


def arm_name(runs: Sequence[RunRecord]) -> str:
    """Return a name for an arm that varies no factor: the name of its run if it has just one."""
    return runs[0].name if len(runs) == 1 else "all runs"


def file_name(factors: Sequence[Factor], runs: Sequence[RunRecord]) -> str:
    """Return how the names of a figure's files begin; any file system takes the name."""
    return clean("-".join(factor.file_name for factor in factors) or (runs[0].name if len(runs) == 1 else "runs"))


def clean(stem: str) -> str:
    """Return a name with nothing in it that a file system or a shell does not take; cut to 80 characters."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", stem)[:80]
