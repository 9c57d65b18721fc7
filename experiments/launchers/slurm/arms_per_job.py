"""hydra.launcher.arms_per_job: which runs go into one job together, and what the plan says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.errors import UserError
from experiments.launchers.slurm.nodes import most_on_a_node
from experiments.launchers.slurm.resources import Resources, resources
from experiments.planning.cost import costs
from experiments.planning.plan import PlannedRun
from experiments.terminal import counted, hours_text
from experiments.values import is_whole

KEY = "hydra.launcher.arms_per_job"
Wanted = Sequence[tuple[PlannedRun, Resources]]


def value_problems(arms: Any) -> list[str]:
    """Return a problem unless the setting is a number of runs."""
    if is_whole(arms, 1):
        return []
    return [f"{KEY} must be a whole number of at least 1, but is {arms!r}; try 4, or 1 for one run in each job"]


def groups_of(wanted: Wanted, most: int) -> list[tuple[Resources, list[PlannedRun]]]:
    """Return the runs in groups of up to `most` that ask for the same, each with what one of its runs asks for."""
    shapes: dict[Resources, list[PlannedRun]] = {}
    for run, needs in wanted:
        shapes.setdefault(needs, []).append(run)
    return [
        (needs, runs[start : start + most]) for needs, runs in shapes.items() for start in range(0, len(runs), most)
    ]


def in_arrays(wanted: Wanted, most: int) -> dict[Resources, list[list[PlannedRun]]]:
    """Return the groups of up to `most` runs, by what the job of a group asks for; a smaller group asks for less."""
    found: dict[Resources, list[list[PlannedRun]]] = {}
    for needs, group in groups_of(wanted, most):
        found.setdefault(needs.times(len(group)), []).append(group)
    return found


def nodes_problems(needs: Resources, most: int) -> list[str]:
    """Return a problem if jobs with several runs are wanted for a run that takes several nodes."""
    if most == 1 or not is_whole(needs.nodes, 2):
        return []
    return [
        f"{KEY} must be 1 where hardware.nodes is above 1 (it is {needs.nodes}), since a job of several runs has one "
        f"node, but is {most}; set {KEY}=1"
    ]


def room_problems(wanted: Wanted, most: int, partition: str | None) -> list[str]:
    """Return a problem for each kind of run of which no node holds as many as its jobs would train.

    None where SLURM does not say what the nodes have, or where not even one run fits: sbatch refuses that one.
    """
    found = []
    sizes: dict[Resources, int] = {}
    for needs, group in groups_of(wanted, most):
        sizes[needs] = max(sizes.get(needs, 0), len(group))
    for needs, size in sizes.items():
        fits = most_on_a_node(needs, size, partition) if size > 1 else None
        if fits is not None and 0 < fits < size:
            found.append(
                f"{KEY} must be at most {fits}, since no node has room for more runs that take {needs.of_a_node()} "
                f"each, but is {most}; set {KEY}={fits}, or choose a partition with larger nodes"
            )
    return list(dict.fromkeys(found))


def outlook(runs: Sequence[PlannedRun], launcher: Mapping[str, Any], starting: bool) -> list[str]:
    """Return what the plan says about how jobs train the runs, as lines; none if each run has a job of its own.

    UserError for a wrong value, unless the runs are to be started: then the launch tells it with all other mistakes.
    """
    most = launcher["arms_per_job"]
    todo = [run for run in runs if run.action not in ("skip", "wait")]
    if not todo or (is_whole(most, 1) and most == 1):
        return []
    wanted = [(run, resources(run.config, launcher)) for run in todo]
    problems = value_problems(most) or [problem for _, needs in wanted for problem in nodes_problems(needs, most)]
    if problems and not starting:
        raise UserError(*dict.fromkeys(problems))
    if problems:
        return []
    groups = [group for _, group in groups_of(wanted, most)]
    hours = max(cost.hours / cost.devices if cost.devices else 0.0 for cost in costs(todo))
    takes = f"; a job takes about {hours_text(hours)} hours from its start" if hours else ""
    many, jobs = counted(len(todo), "run"), counted(len(groups), "job")
    return [f"with SLURM: {many} in {jobs}, up to {max(map(len, groups))} side by side in one{takes}"]
