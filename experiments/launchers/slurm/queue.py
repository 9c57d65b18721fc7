"""Ask SLURM about jobs: one squeue and at most one sacct for each question, whatever the number of jobs.

An id is that of a job ("12") or of an array task ("12_3"). A job that neither squeue nor sacct knows is missing from
the answer: slurmctld forgets ended jobs after MinJobAge (usually five minutes), and many sites have no sacct.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.launchers.slurm.commands import SlurmError, call
from experiments.launchers.slurm.run_job import RunJob

SQUEUE = "ArrayJobID:|,ArrayTaskID:|,JobID:|,State:|,exit_code:|,Reason:|,NodeList:|,Name:|"
SACCT = "JobID,State,ExitCode,NodeList,JobName"  # a name may have any character, so it is last
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
    """A job or an array task: its state in SLURM's words, how it ended, why it waits, its nodes, its name."""

    id: str
    state: str
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    nodes: str = ""
    name: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job is over. A requeued job is not, and neither is a job in a state that we don't know."""
        return self.state in ENDED

    @property
    def held(self) -> bool:
        """Whether the job waits until somebody releases it: "JobHeldUser", "launch failed requeued held", ..."""
        return self.state in WAITING and "held" in self.reason.lower()


def file_bytes(log: Path) -> int:
    """Return the size of a log in bytes, 0 if it is not there: the next job's part begins there."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class Answer:
    """What SLURM said of jobs and of the other tasks of their arrays, by id."""

    rows: Mapping[str, Job]

    def of(self, job: RunJob) -> Job | None:
        """Return what is known of a run's job; None if nothing is. Another job with the same id is none of ours."""
        found = self.rows.get(job.id)
        if found is None and job.array in self.rows:  # tasks that end before they start share one row
            found = replace(self.rows[job.array], id=job.id)
        return found if found is not None and job.has_name(found.name) else None

    def has_array_of(self, job: RunJob) -> bool:
        """Return whether any task of a job's array is known."""
        return any(id.split("_")[0] == job.array and job.has_name(row.name) for id, row in self.rows.items())


def ask(jobs: Collection[RunJob], seconds: float = 5.0) -> Answer:
    """Return what SLURM knows of these jobs, which must be of this cluster, within `seconds`.

    Raises SlurmError if squeue does not answer. A sacct that is missing, switched off or slow counts as one that knows
    no job.
    """
    if not jobs:
        return Answer({})
    deadline = time.monotonic() + seconds
    answer = Answer(_squeue({job.array for job in jobs}, seconds - SACCT_SECONDS))
    missing = {job.array for job in jobs if answer.of(job) is None}
    if missing:
        answer = Answer({**_sacct(missing, deadline - time.monotonic()), **answer.rows})
    return answer


def takes_away(job: RunJob) -> bool:
    """Return whether SLURM is ending a job or has queued it again; False where it does not say."""
    try:
        found = ask([job]).of(job)
    except SlurmError:
        return False
    return found is not None and found.state != "RUNNING"


def named(names: Collection[str], seconds: float = 5.0) -> dict[str, list[Job]]:
    """Return the jobs and array tasks that slurmctld remembers under each of these job names. Raises SlurmError."""
    found: dict[str, list[Job]] = {}
    for job in _rows(["--name", ",".join(sorted(names))], seconds):
        found.setdefault(job.name, []).append(job)
    return found


def _squeue(ids: Collection[str], seconds: float) -> dict[str, Job]:
    """Return every task of the jobs that slurmctld remembers."""
    try:
        return {job.id: job for job in _rows(["--jobs", ",".join(sorted(ids))], seconds)}
    except SlurmError as error:
        if "Invalid job id" in str(error):  # the only id is forgotten; among several, squeue leaves it out
            return {}
        raise


def _rows(which: Sequence[str], seconds: float) -> list[Job]:
    """Return what squeue says of each job or task that the options `which` select."""
    asked = (*which, "--states=all", "--array", "--noheader", "--Format", SQUEUE)
    rows = []
    for line in call("squeue", *asked, seconds=seconds).splitlines():
        array, task, job, state, status, reason, nodes, name = line.split("|", 7)
        id = job if task in ("N/A", "") else f"{array}_{task}"
        code = int(status) if status.isdecimal() else 0  # as wait(2) gives it
        rows.append(Job(id, state, code >> 8, code & 127, reason, nodes, name.removesuffix("|")))
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
        id, state, status, nodes, name = line.split("|", 4)
        code, _, number = status.partition(":")
        words = state.split() or [""]  # "CANCELLED by 1000"
        id = id.split("_")[0] if "[" in id else id  # "12_[3-5]"
        jobs[id] = Job(id, words[0], int(code or 0), int(number or 0), "", nodes, name)
    return jobs


def cancel(job_ids: Collection[str], seconds: float = 30.0) -> None:
    """End jobs, running or waiting; a job that is over already is no error. SlurmError if SLURM refuses."""
    if job_ids:
        call("scancel", *sorted(job_ids), seconds=seconds)
