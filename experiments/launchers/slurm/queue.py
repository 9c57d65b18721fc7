"""Ask SLURM about jobs: one squeue and at most one sacct for each question, whatever the number of jobs.

An id is that of a job ("12") or of an array task ("12_3"). A job that neither squeue nor sacct knows is missing from
the answer: slurmctld forgets ended jobs after MinJobAge (usually five minutes), and many sites have no sacct.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.launchers.slurm.commands import SlurmError, call
from experiments.store.events import Event

SQUEUE = "ArrayJobID:|,ArrayTaskID:|,JobID:|,State:|,exit_code:|,Reason:|,NodeList:|,Name:|"
SACCT = "JobID,State,ExitCode,NodeList"
LOG_HEADER = "--- job "  # begins the part of each job in a run's job.log, to which several jobs may append
SACCT_SECONDS = 1.0  # how much of the time is kept for sacct
WAITING = (
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "SUSPENDED",
    "RESV_DEL_HOLD",
    "STOPPED",
)
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


@dataclass(frozen=True)
class Job:
    """A job or an array task: its state in SLURM's words, how it ended, why it waits, on which nodes it is."""

    id: str
    state: str
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    nodes: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job is over. A requeued job is not, and neither is a job in a state that we don't know."""
        return self.state in ENDED

    @property
    def held(self) -> bool:
        """Whether the job waits until somebody releases it: "JobHeldUser", "launch failed requeued held", ..."""
        return self.state in WAITING and "held" in self.reason.lower()


def log_bytes(run: Path) -> int:
    """Return the size of a run's job.log in bytes: the next job's part begins there."""
    try:
        return (run / "job.log").stat().st_size
    except OSError:
        return 0


def job_of(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the id of the last job that a run was submitted as or started in; None if it was last launched locally.

    A run that is launched locally inside a user's allocation records the job, too: that job is not the run's.
    """
    job, local = None, False
    for event in events:
        if event.get("event") in (Event.LAUNCHED, Event.SUBMITTED):
            local = event.get("launcher") == "local"
        if local:
            job = None
        elif event.get("job"):
            job = str(event["job"])
    return job


def job_states(job_ids: Collection[str], seconds: float = 5.0) -> dict[str, Job]:
    """Return what SLURM knows of the jobs and of the other tasks of their arrays, by id, within `seconds`.

    Raises SlurmError if squeue does not answer. A sacct that is missing, switched off or slow counts as one that knows
    no job.
    """
    if not job_ids:
        return {}
    deadline = time.monotonic() + seconds
    found = _squeue({_array(job) for job in job_ids}, seconds - SACCT_SECONDS)
    missing = {_array(job) for job in job_ids if job not in found and _array(job) not in found}
    if missing:
        found = {**_sacct(missing, deadline - time.monotonic()), **found}
    # Tasks that end before they start share one row, under the array's id.
    together = {job: replace(found[_array(job)], id=job) for job in job_ids if _array(job) in found}
    return {**together, **found}


def named(names: Collection[str], seconds: float = 5.0) -> dict[str, list[Job]]:
    """Return the jobs and array tasks that slurmctld remembers under each of these job names. Raises SlurmError."""
    found: dict[str, list[Job]] = {}
    for name, job in _rows(["--name", ",".join(sorted(names))], seconds):
        found.setdefault(name, []).append(job)
    return found


def _array(job: str) -> str:
    return job.split("_")[0]


def _squeue(ids: Collection[str], seconds: float) -> dict[str, Job]:
    """Return every task of the jobs that slurmctld remembers."""
    try:
        return {job.id: job for _, job in _rows(["--jobs", ",".join(sorted(ids))], seconds)}
    except SlurmError as error:
        if "Invalid job id" in str(error):  # the only id is forgotten; among several, squeue leaves it out
            return {}
        raise


def _rows(which: Sequence[str], seconds: float) -> list[tuple[str, Job]]:
    """Return, for each job or task that the options `which` select, (its name, what squeue says of it)."""
    asked = (*which, "--states=all", "--array", "--noheader", "--Format", SQUEUE)
    rows = []
    for line in call("squeue", *asked, seconds=seconds).splitlines():
        array, task, job, state, status, reason, nodes, name = line.split("|")[:8]
        id = job if task in ("N/A", "") else f"{array}_{task}"
        code = int(status) if status.isdecimal() else 0  # as wait(2) gives it
        rows.append((name, Job(id, state, code >> 8, code & 127, reason, nodes)))
    return rows


def _sacct(ids: Collection[str], seconds: float) -> dict[str, Job]:
    """Return every task of the jobs that the accounting knows; nothing without accounting."""
    asked = (
        "--jobs",
        ",".join(sorted(ids)),
        "--allocations",
        "--noheader",
        "--parsable2",
        "--format",
        SACCT,
    )
    try:
        lines = call("sacct", *asked, seconds=seconds).splitlines()
    except SlurmError:
        return {}
    jobs = {}
    for line in lines:
        name, state, status, nodes = line.split("|")[:4]
        code, _, number = status.partition(":")
        words = state.split() or [""]  # "CANCELLED by 1000"
        name = _array(name) if "[" in name else name  # "12_[3-5]"
        jobs[name] = Job(name, words[0], int(code or 0), int(number or 0), "", nodes)
    return jobs


def cancel(job_ids: Collection[str], seconds: float = 30.0) -> None:
    """End jobs, running or waiting; a job that is over already is no error. SlurmError if SLURM refuses."""
    if job_ids:
        call("scancel", *sorted(job_ids), seconds=seconds)
