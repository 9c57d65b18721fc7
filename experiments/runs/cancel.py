"""`cancel`: end a run that is running, or one that still waits for its start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psutil

from experiments.errors import UserError
from experiments.launchers.slurm import groups, queue
from experiments.launchers.slurm.commands import SlurmError
from experiments.launchers.slurm.queue import Job, ask
from experiments.launchers.slurm.run_job import RunJob, cluster_name, run_job
from experiments.processes import reaping
from experiments.store.events import OPEN, TERMINAL, Event, State, last_event
from experiments.store.rundir import AlreadyRunning, RunDir

PATIENCE_SECONDS = 20.0  # how long an attempt on this machine may take to end by itself
JOB_PATIENCE_SECONDS = 45.0  # how long one in a job may take: SLURM kills it after KillWait, usually 30 s
# States of a job that may still do something. One that is COMPLETING was told to end, and does.
LIVING = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD")
WAITING = (Event.PLANNED, Event.LAUNCHED, Event.SUBMITTED)  # events after which a run waits for its start


def cancel(runs: Sequence[RunDir]) -> int:
    """Cancel the runs; return the exit code.

    UserError, and no run is cancelled, if one neither runs nor waits, runs on another machine without a job, or has a
    job on another cluster. UserError at the end for runs that can't be recorded as cancelled, since their attempts go
    on.
    """
    jobs = {run: job for run in runs if (job := run_job(run.events())) is not None and run.state() in OPEN}
    with _slurm(jobs.values()):
        here = cluster_name() if any(job.cluster for job in jobs.values()) else None
        elsewhere = [
            f"{run.path.name} must be cancelled where its job is, which is {job}, but this is {here}; do it there"
            for run, job in jobs.items()
            if job.is_elsewhere(here)
        ]
        if elsewhere:
            raise UserError(*elsewhere)
        known = ask(list(jobs.values()))
        living = {run for run, job in jobs.items() if (found := known.of(job)) is not None and not found.ended}
        problems = [problem for run in runs if (problem := _problem(run, run.events(), run in living))]
        if problems:
            raise UserError(*problems)
        shared = {run for run in living if groups.companions(run, jobs[run], without=living)}
        for run in shared:
            groups.ask_to_end(run, jobs[run])
        queue.cancel({jobs[run].id for run in living - shared})
    ended = _wait(jobs, shared)
    for run in runs:
        if run.is_locked() and (run not in jobs or (run in ended and _is_here(run))):
            _end(run)
    problems = [problem for run in runs if (problem := _record(run, run in ended or run not in jobs))]
    if problems:
        raise UserError(*problems)
    return 0


def _wait(jobs: Mapping[RunDir, RunJob], shared: Collection[RunDir]) -> set[RunDir]:
    """Wait until the runs are free and no job executes them any more; return the runs of which that is known.

    An attempt records its end before we do, so it is given JOB_PATIENCE_SECONDS. `shared`: runs whose jobs go on with
    other runs.
    """
    deadline = time.monotonic() + JOB_PATIENCE_SECONDS
    while any(run.is_locked() for run in jobs) and time.monotonic() < deadline:
        time.sleep(0.1)
    with _slurm(jobs.values()):
        while True:
            known = ask(list(jobs.values()))
            ended = {run for run, job in jobs.items() if _is_over(run, known.of(job), run in shared)}
            if len(ended) == len(jobs) or time.monotonic() > deadline:
                return ended
            time.sleep(0.5)


def _is_over(run: RunDir, job: Job | None, is_shared: bool) -> bool:
    """Return whether SLURM will not let a run's job execute the run; the job has recorded the end of a shared one.

    A job that waits passes over the runs that are cancelled when it starts.
    """
    if job is None or job.state not in LIVING:
        return True
    return is_shared and (job.state in queue.WAITING or run.state() in (State.CANCELLED, State.FINISHED))


def _record(run: RunDir, has_ended: bool) -> str | None:
    """Record that a run is cancelled; return why it can't be, None if it is. `has_ended`: its job, if it has one."""
    if not has_ended:
        return _goes_on(run, "its job, which was told so, goes on")
    try:
        with run.lock():
            if run.state() == State.FINISHED:
                print(f"{run.path.name}: finished before it could be cancelled")
            else:
                if run.state() != State.CANCELLED:  # its job, which goes on, has recorded it
                    run.record(Event.CANCELLED)
                print(f"{run.path.name}: cancelled")
    except AlreadyRunning:
        started = last_event(run.events(), Event.STARTED) or {}
        return _goes_on(run, f"process {started.get('pid')} on {started.get('host')} still executes it")
    return None


def _goes_on(run: RunDir, why: str) -> str:
    return f"{run.path.name} must have ended to be cancelled, but {why}; look in a minute, then cancel it again"


def _problem(run: RunDir, events: Sequence[Mapping[str, Any]], has_job: bool) -> str | None:
    """Return why a run can't be cancelled, None if it can. `has_job`: SLURM has not ended the run's job."""
    state = run.state(events)
    words = [event.get("event") for event in events if event.get("event") in (*WAITING, Event.STARTED, *TERMINAL)]
    if state != State.RUNNING:
        if not words or words[-1] in WAITING or has_job:  # the job may be about to start again
            return None
        return f"{run.path.name} must be running or waiting to be cancelled, but is {state}; there is nothing to cancel"
    if run_job(events) is None and not _is_here(run):
        host = (last_event(events, Event.STARTED) or {}).get("host")
        return f"{run.path.name} must be cancelled where it runs, which is {host}; do it there"
    return None


def _is_here(run: RunDir) -> bool:
    """Return whether the run's last attempt was started on this machine."""
    return (last_event(run.events(), Event.STARTED) or {}).get("host") == socket.gethostname()


def _end(run: RunDir) -> None:
    """End the living attempt on this machine: ask it first, so that it records its end; kill after PATIENCE_SECONDS."""
    started = last_event(run.events(), Event.STARTED) or {}
    holder = _holder(run, started.get("pid"))
    if holder is None:
        problem = f"{run.path.name} must be run by process {started.get('pid')}, but that is another process"
        raise UserError(f"{problem}; end it by hand, then cancel again")
    holder.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while run.is_locked() and time.monotonic() < deadline:
        time.sleep(0.05)
    if run.is_locked():
        with contextlib.suppress(psutil.NoSuchProcess):
            holder.kill()
            holder.wait(PATIENCE_SECONDS)
        reaping.reap(run.path)


def _holder(run: RunDir, pid: Any) -> psutil.Process | None:
    """Return the process `pid` if it is the attempt, which has the run's lock open; None if it is gone or another."""
    with contextlib.suppress(psutil.Error, OSError, TypeError, ValueError):
        process = psutil.Process(pid)
        lock = os.stat(run.path / "lock")
        if any(os.path.samestat(os.stat(file.path), lock) for file in process.open_files()):
            return process
    return None


@contextlib.contextmanager
def _slurm(jobs: Collection[RunJob]) -> Iterator[None]:
    """Turn what SLURM refuses into an error that names the jobs."""
    try:
        yield
    except SlurmError as error:
        named = ", ".join(map(str, jobs))
        raise UserError(f"SLURM must take back {named}, but says: {error}; try again in a minute") from None
