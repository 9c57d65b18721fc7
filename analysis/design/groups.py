"""Which arms are drawn together: runs launched together, and runs that are alike in all that is not varied."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from analysis.design.baseline import Cells, Levels, distance, find_baseline
from analysis.design.factors import (
    KNOBS,
    PROVENANCE,
    TASK,
    Factor,
    assignment,
    companions,
    find_factors,
    is_content,
    is_scientific,
    setting,
    varying_keys,
)
from analysis.design.levels import frozen
from analysis.records.record import RunRecord
from experiments.store.events import State
from experiments.store.selection import Condition


@dataclass
class Group:
    """The arms of one figure: runs by the levels of the factors that the figure varies."""

    factors: tuple[Factor, ...]
    cells: Cells
    baseline: Levels

    @property
    def runs(self) -> list[RunRecord]:
        return [run for runs in self.cells.values() for run in runs]

    @property
    def weight(self) -> tuple[int, int]:
        """How much it shows: its complete runs, and the steps that its runs trained."""
        return sum(run.complete for run in self.runs), sum(run.history.last_step() for run in self.runs)


@dataclass
class Grouping:
    """All groups of a set of runs, and why runs are in none."""

    groups: list[Group] = field(default_factory=list)
    twice: dict[str, str] = field(default_factory=dict)
    """{run: the reason}, for runs whose arm has another run of their seed, which got further."""
    apart: dict[str, str] = field(default_factory=dict)
    """{run: the reason}, for runs that no group holds."""

    def shown(self) -> set[str]:
        return {run.name for group in self.groups for run in group.runs}


def group_runs(records: Sequence[RunRecord], named: Sequence[Condition] = ()) -> Grouping:
    """Return the groups, those that show the most first.

    Runs that were launched together are compared as they were launched, and with them all runs that agree with them in
    everything that they do not vary. The other runs are compared in one factor at a time. Runs on different tasks or
    data are never compared, unless they were launched together.
    """
    found = Grouping()
    for members in launched_together(records):
        for group in compare(members, named, found):
            extend(group, records, found)
            if not any(same_comparison(group, other) for other in found.groups):
                found.groups.append(group)
    classes = alike(records, lambda key: is_content(key, TASK))
    for members in classes:
        found.groups += compare(members, named, found, among=True)
    if not found.groups:
        for members in classes:
            found.groups += side_by_side(members, named, found)
    ranks = {run.name: place for place, members in enumerate(classes) for run in members}
    weights = [
        tuple(map(sum, zip(*(g.weight for g in found.groups if ranks[g.runs[0].name] == place), strict=True)))
        for place in range(len(classes))
    ]

    def order(group: Group) -> tuple[object, ...]:
        place = ranks[group.runs[0].name]
        most = [-number for number in weights[place]]
        return most, place, first_of(group.factors), [-number for number in group.weight]

    found.groups.sort(key=order)
    return found


def first_of(factors: Sequence[Factor]) -> tuple[int, str]:
    """Return what sorts figures by their factors: our knobs first, in their order."""
    first = factors[0] if factors else None
    return (KNOBS.index(first) if first in KNOBS else len(KNOBS)), first.key if first else ""


def launched_together(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Return the runs of each command that launched more than one arm, the largest sweep first."""
    launches = dict.fromkeys(launch for record in records for launch in record.launches)
    members = [[record for record in records if launch in record.launches] for launch in launches]
    return sorted((runs for runs in members if find_factors(runs, together=True)), key=lambda runs: -len(runs))


def alike(records: Sequence[RunRecord], counts: Callable[[str], bool]) -> list[list[RunRecord]]:
    """Return the runs in classes that agree in all keys that `counts`."""
    keys = [key for key in varying_keys(records) if counts(key)]
    classes: dict[Levels, list[RunRecord]] = {}
    for record in records:
        classes.setdefault(tuple(setting(record, key) for key in keys), []).append(record)
    return list(classes.values())


def compare(
    records: Sequence[RunRecord], named: Sequence[Condition], found: Grouping, among: bool = False
) -> list[Group]:
    """Return one group a factor around a baseline, and around other arms whose neighbours are in no group yet.

    If no arm has a neighbour that differs from it in one factor alone, one group holds all arms side by side. `among`:
    the runs are all there are, so a group is only made if it shows a run that no group has shown.
    """
    factors = find_factors(records, together=not among)
    cells = make_cells(records, factors, found)
    groups: list[Group] = []
    covered = {levels for levels, runs in cells.items() if among and any(run.name in found.shown() for run in runs)}
    waiting = dict(cells)
    while waiting:
        center = find_baseline(waiting, factors, named)
        new = 1 if len(waiting) == len(cells) else 2
        del waiting[center]
        for place, factor in enumerate(factors):
            block = [levels for levels in cells if distance(levels, center) == (levels[place] != center[place])]
            begun = any(run.history.rows for levels in block for run in cells[levels])
            if len(block) < 2 or not begun or len([levels for levels in block if levels not in covered]) < new:
                continue
            own: Cells = {(levels[place],): cells[levels] for levels in block}
            groups.append(Group((factor,), own, find_baseline(own, (factor,), named) if new == 2 else (center[place],)))
            for levels in block:
                waiting.pop(levels, None)
        covered |= {levels for levels, runs in cells.items() if any(run in g.runs for g in groups for run in runs)}
        if new == 1 and factors:
            far = {levels: too_far(factors, levels, center) for levels in cells if distance(levels, center) > 1}
            found.apart |= {run.name: reason for levels, reason in far.items() for run in cells[levels]}
        for levels in covered:
            waiting.pop(levels, None)
    return groups or (side_by_side(records, named, found) if len(cells) > 1 and not covered else [])


def side_by_side(records: Sequence[RunRecord], named: Sequence[Condition], found: Grouping) -> list[Group]:
    """Return one group of all arms; of runs of several models that were not launched together, one for each model."""
    together = set.intersection(*(set(record.launches) for record in records))
    groups = []
    for members in [list(records)] if together else alike(records, is_content):
        factors = find_factors(members, together=bool(together))
        cells = make_cells(members, factors, found)
        groups.append(Group(tuple(factors), cells, find_baseline(cells, factors, named)))
    return groups


def make_cells(records: Sequence[RunRecord], factors: Sequence[Factor], found: Grouping) -> Cells:
    """Return the runs of each arm, one run a seed."""
    cells: Cells = {}
    for record in records:
        cells.setdefault(tuple(factor.level(record) for factor in factors), []).append(record)
    return {levels: one_per_seed(runs, found.twice) for levels, runs in cells.items()}


def extend(group: Group, records: Sequence[RunRecord], found: Grouping) -> None:
    """Add the runs that agree with those of the group in everything that the group does not vary."""
    base, inside = group.runs[0], {run.name for run in group.runs}
    along = companions(group.runs, group.factors)
    varied = {*varying_keys(group.runs), *PROVENANCE, *(factor.key for factor in group.factors)}

    def agrees(record: RunRecord) -> bool:
        keys = {key for key in (*record.config, *base.config) if key not in varied and is_scientific(key)}
        return all(
            setting(record, key) == setting(base, key)
            or (setting(record, key) == frozen(record.seed) and setting(base, key) == frozen(base.seed))
            for key in keys
        )

    for record in records:
        levels = tuple(factor.level(record) for factor in group.factors)
        arm = group.cells.get(levels, [])
        # What comes along with the levels must be as in the arm; of a new level nobody knows what comes along.
        fits = all(setting(record, key) == setting(arm[0], key) for key in along) if arm else not along
        if record.name not in inside and fits and agrees(record):
            group.cells[levels] = one_per_seed([*group.cells.get(levels, []), record], found.twice)


def same_comparison(group: Group, other: Group) -> bool:
    """Return whether `other` varies the same factors and shows all runs of `group`."""
    return group.factors == other.factors and all(run in other.runs for run in group.runs)


def one_per_seed(runs: Sequence[RunRecord], reasons: dict[str, str]) -> list[RunRecord]:
    """Return the runs sorted by seed, one run a seed: the one that got furthest.

    `reasons` gets the name of each run that is left out, with the reason.

    A run without a seed (veRL's default) drew a seed of its own, so it is kept: it repeats no other run.
    """
    best: dict[Hashable, RunRecord] = {}
    for run in sorted(
        runs, key=lambda run: (-run.history.last_step(), run.state not in (State.FINISHED, State.RUNNING), run.name)
    ):
        kept = best.setdefault(("run", run.name) if run.seed is None else frozen(run.seed), run)
        if kept is not run:
            reasons[run.name] = f"same settings and seed as {kept.name}, which got as far or further"
    return sorted(
        best.values(),
        key=lambda run: (not isinstance(run.seed, int), run.seed if isinstance(run.seed, int) else 0, str(run.seed)),
    )


def too_far(factors: Sequence[Factor], levels: Levels, baseline: Levels) -> str:
    """Return why an arm that differs from the baseline in several factors is in no figure."""
    apart = [place for place in range(len(factors)) if levels[place] != baseline[place]]
    theirs = assignment([factors[place] for place in apart], [levels[place] for place in apart])
    base = assignment([factors[place] for place in apart], [baseline[place] for place in apart])
    return f"{theirs} differs from the baseline ({base}) in more than one setting; name the runs to compare just them"
