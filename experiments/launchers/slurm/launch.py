"""hydra/launcher=slurm: submit one job array for each set of resources, and return the prompt at once."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.config.overrides import unknown_key
from experiments.errors import UserError
from experiments.launchers.notify import for_jobs
from experiments.launchers.progress import labels
from experiments.launchers.slurm.arms_per_job import nodes_problems, room_problems
from experiments.launchers.slurm.commands import SlurmError, call
from experiments.launchers.slurm.half_submitted import one_at_a_time
from experiments.launchers.slurm.holds import last_hold
from experiments.launchers.slurm.resources import (
    NAMES,
    Resources,
    partition_problem,
    resource_problems,
    resources,
    time_limit_seconds,
)
from experiments.launchers.slurm.run_job import RunJob, known_cluster_name, run_job
from experiments.launchers.slurm.script import Settings, flag_problems
from experiments.launchers.slurm.settle import settle, still_there
from experiments.launchers.slurm.submission import Array, each, submit
from experiments.launchers.summary import print_summary
from experiments.planning.cost import Cost, check_disk, disk_needed
from experiments.planning.cost import costs as estimates
from experiments.planning.plan import PlannedRun, freeze
from experiments.project import runs_option
from experiments.store.events import OPEN, State
from experiments.store.rundir import find_runs
from experiments.store.warning import END_SECONDS
from experiments.terminal import console, counted
from experiments.values import is_whole
from experiments.variables import NOTIFY, SWEEP

CHECKPOINT_BYTES_PER_SECOND = 1e9  # the most that a cluster's file system can write
LEAST_WARNING_SECONDS = 120
LOOK_SECONDS = 5.0  # how often `wait` asks SLURM


def catch_up(runs_dir: Path) -> None:
    """Record what SLURM has done to the runs of a folder since the last look, so that a plan starts from the truth."""
    require_slurm()
    complaint = settle(find_runs(runs_dir), seconds=30.0)
    if complaint:
        raise UserError(f"SLURM must answer, but: {complaint}; try again, or ask your administrator")


def require_slurm() -> None:
    """Raise UserError if SLURM's programs are not on this machine."""
    missing = [program for program in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(program) is None]
    if missing:
        raise UserError(
            f"hydra/launcher=slurm must find SLURM's programs on the PATH, but there is no {', '.join(missing)}; "
            "log in to the cluster's login node, or use hydra/launcher=local"
        )


def launch(runs: Sequence[PlannedRun], launcher: Mapping[str, Any], notify: str | None = None) -> int:
    """Submit the runs that are not done; return the command's exit code (with `wait`, 1 if a run failed).

    `launcher`: hydra.launcher's values. `notify`: who is told of the end (see launchers/notify.py). UserError, and
    nothing is submitted, if a value is wrong or SLURM refuses.
    """
    settings = Settings(**{field.name: launcher[field.name] for field in fields(Settings)})
    if not runs:
        return 0
    runs_dir = runs[0].folder.path.parent
    costs = {run.name: cost for run, cost in zip(runs, estimates(runs), strict=True)}
    arms = settings.arms_per_job if is_whole(settings.arms_per_job, 1) else 1
    wanted = {run.name: warned_in_time(resources(run.config, launcher), costs[run.name], arms) for run in runs}
    problems = [*key_problems(launcher), *flag_problems(settings), *folder_problems(runs_dir)]
    if not isinstance(launcher["wait"], bool):
        problems.append(f"hydra.launcher.wait must be true or false, but is {launcher['wait']!r}; choose one")
    for run in runs:
        found = [*resource_problems(wanted[run.name], run.config), *nodes_problems(wanted[run.name], arms)]
        found = found or time_problems(costs[run.name], wanted[run.name], arms)
        problems += [problem for problem in found if problem not in problems]
    if not problems:
        asked = [(run, wanted[run.name]) for run in runs if run.action not in ("skip", "wait")]
        problems = room_problems(asked, arms, settings.partition)
    problems = problems or partition_problems((needs.time for needs in wanted.values()), settings)
    if problems:
        raise UserError(*problems)
    with one_at_a_time(runs_dir):  # another launcher may have submitted runs since they were planned
        runs = [replace(run, state=run.folder.state(), reached=run.folder.reached()) for run in runs]
        ending = still_there([run.folder for run in runs])
        todo = [run for run in runs if run.action not in ("skip", "wait") and run.folder not in ending]
        unsure = [f"{run.path.name}: {may_go_on(job)}" for run, job in ending.items()]
        for line in [*held(runs), *elsewhere(runs), *unsure]:
            console.print(line, soft_wrap=True)
        if not todo:
            console.print("nothing to submit")
        else:
            check_disk(runs_dir, sum(disk_needed(run.config) for run in todo))
            todo = each(freeze, todo)
            # sbatch hands these variables on to the jobs. No file has them.
            os.environ.update({NOTIFY: "", SWEEP: "", **for_jobs(notify, [run.folder for run in todo])})
            print_submitted(submit([(run, wanted[run.name]) for run in todo], settings, runs_dir))
    return follow(runs) if launcher["wait"] else 0


def key_problems(launcher: Mapping[str, Any]) -> list[str]:
    """Return a problem for each key that is not a setting: Hydra accepts any key from a file and after a +."""
    known = [f"hydra.launcher.{name}" for name in (*NAMES, *(field.name for field in fields(Settings)), "wait")]
    given = [f"hydra.launcher.{name}" for name in launcher]
    return [unknown_key(key, known) for key in given if key not in known]


def folder_problems(runs_dir: Path) -> list[str]:
    """Return a problem if the jobs could not print into the runs' folder; other characters are free."""
    if not re.search(r'["\\\n\r]', str(runs_dir)):
        return []
    return [
        "runs_dir must have no double quote, backslash or line break in its path with hydra/launcher=slurm, since "
        f"sbatch's --output can't name one, but is {str(runs_dir)!r}; choose another runs_dir"
    ]


def checkpoint_seconds(cost: Cost) -> float:
    """Return how many seconds writing a checkpoint takes at least."""
    return cost.checkpoint / CHECKPOINT_BYTES_PER_SECOND


def warned_in_time(wanted: Resources, cost: Cost, arms: int = 1) -> Resources:
    """Return the resources; if the user set no warning_seconds, with enough for a step, a checkpoint and the end.

    `arms`: how many runs of a job may save at the same time.
    """
    if wanted.warning_seconds is not None:
        return wanted
    needed = (cost.seconds_per_step or 0) + arms * checkpoint_seconds(cost) + END_SECONDS
    return replace(wanted, warning_seconds=max(LEAST_WARNING_SECONDS, 60 * math.ceil(needed / 60)))


def time_problems(cost: Cost, wanted: Resources, arms: int = 1) -> list[str]:
    """Return a problem if the time limit is too short for a step and the warning, or for a step and a checkpoint.

    `arms`: as in `warned_in_time`.
    """
    if wanted.time is None or wanted.warning_seconds is None:
        return []
    step, checkpoint = cost.seconds_per_step or 0, arms * checkpoint_seconds(cost)
    needed = step + max(wanted.warning_seconds, checkpoint)
    if time_limit_seconds(wanted.time) > needed:
        return []
    return [
        f"hydra.launcher.time must hold a step ({step:g} s, estimated) and then the {wanted.warning_seconds} s of "
        f"hydra.launcher.warning_seconds, or a checkpoint ({checkpoint:.0f} s, estimated), but is {wanted.time}; raise "
        f"it to {int(needed / 60) + 1} minutes or more"
    ]


def partition_problems(limits: Iterable[str | None], settings: Settings) -> list[str]:
    """Return a problem for each time limit that the jobs' partition does not allow; none if SLURM does not say."""
    if settings.qos:  # a QOS may allow what the partition does not
        return []
    try:
        described = call("scontrol", "--oneliner", "show", "partition")
    except SlurmError:
        return []
    asked = [limit for limit in dict.fromkeys(limits) if limit is not None]
    return [problem for limit in asked if (problem := partition_problem(limit, settings.partition, described))]


def print_submitted(arrays: Sequence[Array]) -> None:
    """Print the job ids, and commands that the user may type next."""
    for array in arrays:
        runs, most = counted(len(array.runs), "run"), max(map(len, array.tasks))
        beside = f" in {counted(len(array.tasks), 'job')}, up to {most} side by side in one" if most > 1 else ""
        console.print(f"submitted job {array.job}: {runs}{beside}  {array.resources}", soft_wrap=True)
        if array.waits_for:
            console.print(f"job {array.job} waits until a node is back: {array.waits_for}", soft_wrap=True)
    ids = ",".join(array.job for array in arrays)
    runs_dir = arrays[0].runs[0].folder.path.parent
    where = runs_option("--runs-dir", runs_dir)
    first = arrays[0].runs[0].folder.id
    for command, what in (
        (f"python -m experiments.runs{where} list", "where they are"),
        (f"python -m experiments.runs{where} logs {first} -f", "what one of them prints"),
        (f"squeue --jobs {ids}", "what SLURM says"),
        (f"scancel {ids.replace(',', ' ')}", "end them all"),
        (f"python -m analysis.plot_ablation{runs_option('--runs', runs_dir)}", "the figures, of what is there"),
    ):
        console.print(f"  {command:<48}  {what}", soft_wrap=True)


def held(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a line with cause and remedy for each run whose job SLURM does not start."""
    holds = {run.name: last_hold(run.folder.events()) for run in runs}
    return [f"{name}: {hold['cause']}; {hold['remedy']}" for name, hold in holds.items() if hold]


def elsewhere(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a line for each run that is not submitted because a job of another cluster has it."""
    jobs = {run.name: run_job(run.folder.events()) for run in runs if run.state in (State.QUEUED, State.RUNNING)}
    return [
        f"{name}: {job} has it"
        for name, job in jobs.items()
        if job is not None and job.is_elsewhere(known_cluster_name())
    ]


def may_go_on(job: RunJob) -> str:
    """Return why a run that has ended is not submitted while this job of it may start again."""
    if job.is_elsewhere(known_cluster_name()):
        return f"only there can be asked whether {job} still trains; do: python -m experiments.runs list, there"
    return "its job has not ended and may be queued again; ask again in a minute"


def follow(runs: Sequence[PlannedRun]) -> int:
    """Show a table of the runs until none is queued or running; return 1 if one did not finish.

    Ctrl-C ends the watching (exit code 130), not the jobs.
    """
    from rich.live import Live

    last = None
    said: set[str] = set()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                complaint = settle([run.folder for run in runs])
                again = still_there([run.folder for run in runs])
                states = [run.folder.state() for run in runs]
                for line in [*held(runs), *filter(None, [complaint])]:
                    if line not in said:
                        console.print(line, soft_wrap=True)
                        said.add(line)
                counts = Counter(states)
                if console.is_terminal:
                    live.update(_table(runs, states), refresh=True)
                elif counts != last:
                    console.print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
                last = counts
                if not again and not any(state in OPEN and state != State.INTERRUPTED for state in states):
                    break
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        print("no longer looking; the jobs go on", file=sys.stderr)
        return 130
    print_summary(runs)
    return int(any(state != State.FINISHED for state in states))


def _table(runs: Sequence[PlannedRun], states: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table("run", "state", "step")
    for label, run, state in zip(labels(runs), runs, states, strict=True):
        table.add_row(label, state, f"{run.folder.last_step()}/{run.steps}")
    return table
