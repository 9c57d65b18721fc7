"""Which runs one job trains side by side, as its submission wrote it into the folder of its array.

The runs of a group have the same job id in their events. So what SLURM says of the job concerns each of them that has
no end of its own yet. A job with one run has no such files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.launchers.slurm.queue import file_bytes
from experiments.launchers.slurm.run_job import ARRAYS, JOB_NAME, RunJob, run_job
from experiments.store.events import OPEN
from experiments.store.files import append_line, read_jsonl, write_atomically
from experiments.store.rundir import RunDir

GROUPS = "groups.json"
# One line for each run that is to end while its job goes on. The file is there from the start: other nodes see what is
# appended to a file when they open it, and may see a new file only a minute later.
ENDING = "ending.jsonl"


@dataclass(frozen=True)
class Arm:
    """One run of a group, and what its attempts are asked for."""

    run: RunDir
    steps: int
    config: str
    """The file in the run's folder with the frozen config."""


def write_groups(folder: Path, groups: Sequence[Sequence[Arm]]) -> None:
    """Write which runs each task of the array of this folder trains."""
    tasks = [[{"run": str(arm.run.path), "steps": arm.steps, "config": arm.config} for arm in arms] for arms in groups]
    write_atomically(folder / GROUPS, json.dumps(tasks, indent=1) + "\n")
    (folder / ENDING).touch()


def read_group(folder: Path, task: int) -> list[Arm]:
    """Return the runs that a task of the array of this folder trains. Raises OSError."""
    tasks = json.loads((folder / GROUPS).read_text())
    return [Arm(RunDir(Path(arm["run"])), arm["steps"], arm["config"]) for arm in tasks[task]]


def has(job: RunJob, run: RunDir) -> bool:
    """Return whether this job is still to train a run: nobody has it instead, and it has not ended for good.

    A run whose folder can't be read, or is gone, is none.
    """
    try:
        events = run.events()
        return job.is_same(run_job(events)) and run.state(events) in OPEN
    except (UserError, OSError):
        return False


def companions(run: RunDir, job: RunJob, without: Collection[RunDir] = ()) -> list[RunDir]:
    """Return the other runs that a run's job is still to train; `without`: runs that do not count."""
    folder = _folder(run, job)
    others = [arm.run for arm in read_group(folder, _task(job))] if folder else []
    left_out = {run.id, *(one.id for one in without)}  # by id: a folder may have two paths
    return [other for other in others if other.id not in left_out and has(job, other)]


def ask_to_end(run: RunDir, job: RunJob) -> None:
    """Tell a run's job, which goes on with other runs, that this run is cancelled."""
    if folder := _folder(run, job):
        append_line(folder / ENDING, json.dumps({"job": job.id, "run": run.id}))


def asked_to_end(folder: Path, job: RunJob) -> set[str]:
    """Return the ids of the runs of which this job was told that they are cancelled."""
    return {str(row.get("run")) for row in read_jsonl(folder / ENDING)[0] if row.get("job") == job.id}


def job_output(run: RunDir, job: RunJob | None) -> Path | None:
    """Return the file with what a run's job prints beside the runs' own job.log; None for a job with one run."""
    folder = _folder(run, job) if job else None
    return folder / f"{_task(job)}.log" if folder and job else None


def log_marks(run: RunDir, job: RunJob | None) -> dict[str, Any]:
    """Return the fields of a submission's event that say where the logs of the job's next life begin."""
    output = job_output(run, job)
    mine = {"log_bytes": file_bytes(run.path / "job.log")}
    return {**mine, "output_bytes": file_bytes(output)} if output else mine


def _folder(run: RunDir, job: RunJob) -> Path | None:
    """Return the folder of the array of a run's job; None if the job has only this run."""
    if not job.name or not job.name.startswith(JOB_NAME):
        return None
    folder = run.path.parent / ARRAYS / job.name.removeprefix(JOB_NAME)
    return folder if (folder / GROUPS).is_file() else None


def _task(job: RunJob) -> int:
    return int(job.id.partition("_")[2] or 0)
