"""`retry`: launch failed runs again with the config and the code of their last launch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import INTERRUPTED, UserError
from experiments.launchers.slurm.holds import HELD, last_hold
from experiments.launchers.slurm.run_job import RunJob, cluster_name, run_job
from experiments.models.folder import shape_of
from experiments.models.setup import setup_of
from experiments.store.code_copy import FOLDER, PACKAGE
from experiments.store.events import State
from experiments.store.frozen import FIRST
from experiments.store.rundir import RunDir

if TYPE_CHECKING:
    from experiments.planning.plan import PlannedRun

FAILED = (State.FAILED, State.KILLED)


def failed_among(runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs that failed, that were killed, or whose job SLURM holds."""
    return [run for run in runs if run.state() in FAILED or held(run)]


def held(run: RunDir) -> RunJob | None:
    """Return the run's job if SLURM held it at our last look, else None."""
    events = run.events()
    hold = last_hold(events) if run.state(events) == State.QUEUED else None
    return run_job(events) if hold and hold.get("kind") == HELD else None


def retry(runs: Sequence[RunDir]) -> int:
    """Execute failed runs again, one after the other, each from its last checkpoint; return the exit code.

    Jobs that SLURM holds are released. UserError, and nothing is launched, if one of the other runs has not failed or
    was launched on a cluster.
    """
    problems = []
    holds = {run: held(run) for run in runs}
    runs = [run for run, job in holds.items() if job is None]
    for run in runs:
        if run.state() not in FAILED:
            problems.append(f"{run.path.name} must have failed to be tried again, but is {run.state()}; leave it out")
        elif run_job(run.events()) is not None:
            script = run.path / "job.sh"
            problems.append(f"{run.path.name} must be tried again where it ran; do: sbatch {shlex.quote(str(script))}")
    if problems:
        raise UserError(*problems)
    release(list(dict.fromkeys(job for job in holds.values() if job is not None)))
    if not runs:
        if not holds:
            print("no run has failed: there is nothing to try again")
        return 0
    from experiments.launchers.local import run_all
    from experiments.planning.show import print_plan
    from experiments.processes.standby import Standby

    planned: dict[Path, list[PlannedRun]] = {}
    for run in runs:
        try:
            planned.setdefault(code_of(run), []).append(as_launched(run))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    every = [run for group in planned.values() for run in group]
    print_plan(every, len(every))
    codes = []
    for code, group in planned.items():
        codes.append(run_all(group, Standby(), code))
        if codes[-1] == INTERRUPTED:
            break
    return max(codes)


def code_of(run: RunDir) -> Path:
    """Return the copy of the code that the run was last launched with; UserError if it is gone."""
    names = [event["code"] for event in run.events() if isinstance(event.get("code"), str)]
    code = run.path.parent / FOLDER / (names[-1] if names else "")
    if names and (code / PACKAGE).is_dir():
        return code
    raise UserError(
        f"{run.path.name} must be tried again with the code that it was launched with, but {code} has no copy of it; "
        "launch it anew: python -m experiments.run with the settings that `runs show` prints"
    )


def as_launched(run: RunDir) -> PlannedRun:
    """Return the plan of a run as it was last launched; UserError if its config is foreign or damaged."""
    from omegaconf import OmegaConf

    from experiments.planning.plan import PlannedRun
    from experiments.planning.show import plan_json
    from experiments.processes.standby import is_wanted, ray_options

    events = run.events()
    frozen = next((event["config"] for event in reversed(events) if isinstance(event.get("config"), str)), FIRST)
    config = run.load_config(frozen)
    steps = run.target_step(events, config)
    if steps is None:
        raise UserError(f"{run.config_file} must say trainer.total_training_steps, but does not; launch it anew")
    state, reached, verl = run.state(), run.reached(), OmegaConf.create(config)
    planned = PlannedRun(run.path.name, run, config, verl, steps, state, reached, frozen)
    try:  # these read everything that a launch reads
        plan_json([planned], 1)
        ray_options(config), is_wanted(config)
        return replace(planned, memory=setup_of(config, shape_of(config)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{run.path / frozen} must be the config of a run, but is foreign or damaged ({error!r})"
        raise UserError(f"{problem}; move {run.path.name} away") from None


def release(jobs: Sequence[RunJob]) -> None:
    """Ask SLURM to release jobs that it holds; UserError if it refuses. The next look at the runs shows the result.

    No job is released unless all of them are of this cluster and waiting there.
    """
    from experiments.launchers.slurm.commands import SlurmError, call
    from experiments.launchers.slurm.queue import ask

    try:
        here = cluster_name() if jobs else ""
        problems = [
            f"{job} must be released on its cluster, but this is {here}; do it there"
            for job in jobs
            if job.is_elsewhere(here)
        ]
        known = ask([] if problems else jobs)
        problems = problems or [
            f"{job} must wait in SLURM to be released, but SLURM does not know it; launch its run again"
            for job in jobs
            if (found := known.of(job)) is None or found.ended
        ]
        for job in () if problems else jobs:
            call("scontrol", "release", job.id)
            print(f"job {job.id}: released")
    except SlurmError as error:
        raise UserError(f"SLURM must release the jobs, but says: {error}; ask your administrator") from None
    if problems:
        raise UserError(*problems)
