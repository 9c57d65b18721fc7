"""`retry`: launch failed runs once more, as they were frozen."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.errors import UserError
from experiments.rundir import RunDir
from experiments.runs.cancel import job_of
from experiments.runs.status import target_step
from experiments.slurm.holds import HELD, last_hold

FAILED = ("failed", "killed")


def failed_among(runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs that failed, died without a word, or that SLURM holds."""
    return [run for run in runs if run.state() in FAILED or held(run)]


def held(run: RunDir) -> str | None:
    """Return the id of the run's job if SLURM holds it, as far as the last look saw."""
    events = run.events()
    hold = last_hold(events) if run.state(events) == "queued" else None
    return str(hold["job"]) if hold and hold.get("kind") == HELD else None


def retry(runs: Sequence[RunDir]) -> int:
    """Execute failed runs again, one after the other, each from its last checkpoint; return the exit code.

    Those that SLURM holds are released. UserError, and nothing launched, if one of the others has not failed or was
    launched on a cluster.
    """
    problems = []
    holds = {run: held(run) for run in runs}
    runs = [run for run, job in holds.items() if job is None]
    for run in runs:
        if run.state() not in FAILED:
            problems.append(f"{run.path.name} must have failed to be tried again, but is {run.state()}; leave it out")
        elif job_of(run.events()) is not None:
            script = run.path / "job.sh"
            problems.append(f"{run.path.name} must be tried again where it ran; do: sbatch {script}")
    if problems:
        raise UserError(*problems)
    for job in filter(None, holds.values()):
        release(job)
    if not runs:
        if not holds:
            print("no run has failed: there is nothing to try again")
        return 0
    from omegaconf import OmegaConf

    from experiments.launchers.local import run_all
    from experiments.plan import PlannedRun

    planned = []
    for run in runs:
        config = run.load_config()
        steps = target_step(run, run.events())
        if steps is None:
            raise UserError(f"{run.config_file} must say trainer.total_training_steps, but does not; launch it anew")
        planned.append(
            PlannedRun(
                name=run.path.name,
                run=run,
                config=config,
                verl=OmegaConf.create(config),
                steps=steps,
                state=run.state(),
                reached=run.reached(),
            )
        )
    return run_all(planned)


def release(job: str) -> None:
    """Have SLURM start a job that it holds; the next look at the runs says what came of it."""
    from experiments.slurm.commands import SlurmError, call

    try:
        call("scontrol", "release", job)
    except SlurmError as error:
        raise UserError(f"SLURM must release job {job}, but says: {error}; ask your administrator") from None
    print(f"job {job}: released")
