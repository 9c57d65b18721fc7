"""Write what SLURM did to the runs into their events, so that the disk still knows when SLURM has forgotten."""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.launchers.slurm import holds
from experiments.launchers.slurm.commands import SlurmError
from experiments.launchers.slurm.groups import job_output, log_marks
from experiments.launchers.slurm.half_submitted import take_back
from experiments.launchers.slurm.queue import LOG_HEADER, WAITING, Job, ask
from experiments.launchers.slurm.run_job import RunJob, cluster_name, run_job
from experiments.store.events import OPEN, Event, State
from experiments.store.failures import DISK_FULL, DISK_FULL_EXIT, MORE_MEMORY, of_a_full_disk, passes
from experiments.store.rundir import RunDir

MEMORY = re.compile(r"exceeded (job |step )?memory limit|oom.kill|out of memory", re.IGNORECASE)
LOG_BYTES = 100_000
OUTPUT_FILE_SIGNAL = 53  # "0:53": slurmstepd could not open --output
REQUEUED = "DUE TO JOB REQUEUE"  # slurmstepd's last words when a job ends that will run again
# Its last words when a job ends for good, each with SLURM's state of such a job.
LAST_WORDS = (
    (re.compile(r"CANCELLED AT \S+ DUE TO TIME LIMIT"), "TIMEOUT"),
    (re.compile(r"CANCELLED AT \S+ DUE TO NODE FAILURE"), "NODE_FAIL"),
    (re.compile(r"CANCELLED AT \S+ DUE TO PREEMPTION"), "PREEMPTED"),
    (re.compile(r"JOB \d+ ON \S+ CANCELLED AT"), "CANCELLED"),
)


def settle(runs: Sequence[RunDir], seconds: float = 5.0) -> str | None:
    """Record what happened to the runs' jobs, if their events don't say it yet; SLURM is asked once for all runs.

    Jobs that a killed launcher had submitted and not released are taken back. Jobs of another cluster are left alone:
    this one's SLURM knows nothing of them. Waits for SLURM at most `seconds` in all. Returns None, or SLURM's complaint
    if it did not answer. SLURM is not asked if no run needs it.
    """
    deadline = time.monotonic() + seconds
    asked = {}
    try:
        is_busy = take_back({run.path.parent for run in runs}, seconds)
        for run in runs:
            events = run.events()
            job = run_job(events)
            if (
                job is not None
                and run.state(events) in OPEN
                and not job.is_elsewhere(cluster_name(deadline - time.monotonic()))
            ):
                asked[run] = (events, job)
        known = ask([job for _, job in asked.values()], deadline - time.monotonic())
    except SlurmError as error:
        return str(error)
    for run, (events, job) in asked.items():
        found = known.of(job)
        event = verdict(run, events, found, known.has_array_of(job))
        if event is None and not is_busy:  # a launcher that is submitting holds its jobs itself
            event = _waiting(run, events, found)
        if event:
            _record(run, events, event)
    return None


def _record(run: RunDir, events: Sequence[Mapping[str, Any]], event: Mapping[str, Any]) -> None:
    """Append the event, unless the run has newer events or we may not write into its folder."""
    try:
        with run.lock():
            if len(run.events()) == len(events):
                run.record(**event)
    except (UserError, OSError):
        return


def still_there(runs: Sequence[RunDir]) -> dict[RunDir, RunJob]:
    """Return which of these runs have ended but may be queued again, tried again or train, because of which job.

    SLURM has not ended that job, or nobody can tell: SLURM does not answer, or the job of a killed run is another
    cluster's. (An interrupted run of another cluster is free: should its job start again, it sees that the run has been
    given to another job.)
    """
    ended = {run: state for run in runs if (state := _end_of(run)) is not None}
    jobs = {run: job for run in ended if (job := run_job(run.events())) is not None}
    try:
        elsewhere = {run for run, job in jobs.items() if job.is_elsewhere(cluster_name())}
        known = ask([job for run, job in jobs.items() if run not in elsewhere])
    except SlurmError:
        return jobs
    living = {run for run, job in jobs.items() if (found := known.of(job)) is not None and not found.ended}
    living |= {run for run in elsewhere if run.state() == State.KILLED}
    return {run: job for run, job in jobs.items() if run in living or run.state() != ended[run]}


def _end_of(run: RunDir) -> State | None:
    """Return how a run has ended; None if it has not, or if its job would not begin it again."""
    events = run.events()
    state = run.state(events)
    again = state in (State.INTERRUPTED, State.KILLED) or (state == State.FAILED and passes(events[-1]))
    return state if again else None


def verdict(run: RunDir, events: Sequence[Mapping[str, Any]], job: Job | None, siblings: bool) -> dict[str, Any] | None:
    """Return the event to record for a run; None if its events already say everything.

    `job`: what SLURM knows of the run's job; None if nothing. `siblings`: whether SLURM knows other tasks of its array.
    """
    state = run.state(events)
    if state == State.RUNNING and not run.is_locked():
        state = State.KILLED
    if job is None:
        said = _said(run, events)
        last = next((end for words, end in LAST_WORDS for line in said if words.search(line)), None)
        if last is None:
            return _missing(run, state, siblings, said)
        own = run_job(events)
        job = Job(own.id if own else "", last)
    if job.state in WAITING:
        if state in (State.QUEUED, State.RUNNING):
            return None
        return _queued(run, job, f"SLURM: {job.state}")
    if job.state == "RUNNING" and state == State.KILLED and events[-1].get("event") != Event.RUNNING:
        return {
            "event": Event.RUNNING,
            "job": job.id,
            "cause": "SLURM says so, but nobody is seen to hold the run's lock",
        }
    if not job.ended or state == State.RUNNING:
        return None
    if job.state == "CANCELLED":
        return {"event": Event.CANCELLED, "cause": "cancelled in SLURM", "job": job.id}
    told = _told(run, job)
    if told:
        kind, cause, remedy = told
        return {"event": Event.FAILED, "kind": kind, "cause": cause, "remedy": remedy, "job": job.id}
    if state == State.INTERRUPTED:
        return None
    if job.state == "PREEMPTED":
        return {"event": Event.INTERRUPTED, "cause": "preempted by another job", "job": job.id}
    kind, cause, remedy = _unheard(run, job, _said(run, events))
    return {"event": Event.FAILED, "kind": kind, "cause": cause, "remedy": remedy, "job": job.id}


def _waiting(run: RunDir, events: Sequence[Mapping[str, Any]], job: Job | None) -> dict[str, Any] | None:
    """Return the event to record if SLURM will not start a queued run's job, or may start it again; else None."""
    if job is None or job.state not in WAITING or run.state(events) != State.QUEUED:
        return None
    now, before = holds.told(run, job), holds.last_hold(events)
    if now and (before is None or before.get("cause") != now["cause"]):
        return now
    if before and not now:
        return _queued(run, job, "SLURM may start it again")
    return None


def _queued(run: RunDir, job: Job, cause: str) -> dict[str, Any]:
    return {
        "event": Event.SUBMITTED,
        "launcher": "slurm",
        "job": job.id,
        "cause": cause,
        **log_marks(run, run_job(run.events())),
    }


def _missing(run: RunDir, state: State, siblings: bool, said: Sequence[str]) -> dict[str, Any] | None:
    """Return the event of a run if neither squeue nor sacct knows its job, and the log does not say how it ended."""
    if state not in (State.QUEUED, State.KILLED):
        return None
    # SLURM keeps no row of an array task that was cancelled while it waited.
    if state == State.QUEUED and siblings and not said:
        return {"event": Event.CANCELLED, "cause": "its job is gone from SLURM and never started"}
    memory = next((line for line in said if MEMORY.search(line)), None)
    if memory:
        return {"event": Event.FAILED, "kind": "out of memory", "cause": memory, "remedy": MORE_MEMORY}
    cause, remedy = f"neither squeue nor sacct knows its job any more; it was {state}", _resume(run)
    if said:
        cause, remedy = f"{cause}; it said: {said[-1]}", f"read {run.path / 'job.log'}, then {remedy}"
    return {"event": Event.FAILED, "kind": "lost", "cause": cause, "remedy": remedy}


def _resume(run: RunDir) -> str:
    step = run.checkpoint_step()
    return f"launch it again: it resumes at step {step}" if step else "launch it again"


def _told(run: RunDir, job: Job) -> tuple[str, str, str] | None:
    """Return (kind, cause, remedy) if SLURM's state is enough to tell them, else None."""
    where = f" on {job.nodes}" if job.nodes else ""
    again = _resume(run)
    told = {
        "TIMEOUT": ("time limit", "the job reached its time limit", f"{again}, or give it more hydra.launcher.time"),
        "OUT_OF_MEMORY": (
            "out of memory",
            f"SLURM ended the job{where}: more memory than asked for",
            MORE_MEMORY,
        ),
        "NODE_FAIL": ("node failure", f"SLURM lost the node{where}", again),
        "BOOT_FAIL": ("node failure", f"the node did not come up{where}", again),
        "DEADLINE": ("time limit", "the job's deadline passed", again),
    }
    return told.get(job.state)


def _unheard(run: RunDir, job: Job, said: Sequence[str]) -> tuple[str, str, str]:
    """Return (kind, cause, remedy) of a job that ended without an event of its own. `said`: what its log says."""
    if job.signal == OUTPUT_FILE_SIGNAL:
        return (
            "runs folder not visible",
            f"the node {job.nodes} could not write to {run.path}",
            "set runs_dir to a folder that all nodes share",
        )
    if job.exit_code == DISK_FULL_EXIT:
        cause = f"no room left where {run.path} is: the job could not record its end"
        return DISK_FULL, cause, f"make room (df -h {shlex.quote(str(run.path))}), then {_resume(run)}"
    memory = next((line for line in said if MEMORY.search(line)), None)
    if memory:
        return "out of memory", memory, MORE_MEMORY
    if job.signal:
        name = signal.Signals(job.signal).name if job.signal in signal.valid_signals() else f"signal {job.signal}"
        return "killed", f"SLURM says {job.state}: {name}", f"read {run.path / 'job.log'}, then {_resume(run)}"
    if not said and job.exit_code and not _began(run):
        cause = (
            f"SLURM says {job.state} {job.exit_code}:{job.signal}, and the job printed nothing: the disk was full, or "
            "a line of hydra.launcher.setup ended it"
        )
        remedy = f"look whether there is room (df -h {shlex.quote(str(run.path))}), then {_resume(run)}"
        return "killed" if of_a_full_disk(run.path) is None else DISK_FULL, cause, remedy
    last = f": {said[-1]}" if said else ""
    cause = f"SLURM says {job.state} {job.exit_code}:{job.signal}{last}"
    return "killed", cause, f"read {run.path / 'job.log'}, then {_resume(run)}"


def _began(run: RunDir) -> bool:
    """Return whether the run's last job could write into the log that it began."""
    try:
        return (run.path / "job.log").stat().st_size > _bytes_before(run.events(), "log_bytes")
    except OSError:
        return False


def _bytes_before(events: Sequence[Mapping[str, Any]], field: str) -> int:
    """Return how many bytes of a log are of the run's former jobs: the last job's part comes after them."""
    marked: Mapping[str, Any] = next(
        (event for event in reversed(events) if isinstance(event.get("log_bytes"), int)), {}
    )
    return marked.get(field) or 0


def _said(run: RunDir, events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines that the last job left in job.log, with slurmstepd's lines; none if the job never started.

    Where the job has several runs, its own lines and slurmstepd's are in a file of the job: they come first.
    """
    output = job_output(run, run_job(events))
    of_the_job = _part(output, _bytes_before(events, "output_bytes")) if output else []
    return of_the_job + _part(run.path / "job.log", _bytes_before(events, "log_bytes"))


def _part(log: Path, before: int) -> list[str]:
    """Return the lines of the last job in a log, which begin after byte `before`."""
    try:
        with open(log, "rb") as file:
            file.seek(max(before, file.seek(0, 2) - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    _, header, last = text.rpartition(LOG_HEADER)
    lines = last.splitlines()[1 if header else 0 :]  # errors from before Python starts come before the header
    return [line.strip()[:300] for line in lines if line.strip() and REQUEUED not in line]
