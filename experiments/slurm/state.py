"""What SLURM did to the runs, written into their events: the disk stays the truth when SLURM has forgotten."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.errors import UserError
from experiments.rundir import RunDir
from experiments.slurm import holds
from experiments.slurm.commands import SlurmError
from experiments.slurm.jobs import LOG_HEADER, WAITING, Job, job_states
from experiments.slurm.unfinished import take_back

OPEN = ("queued", "running", "killed", "interrupted")  # states about which SLURM may know more than the events
MEMORY = re.compile(r"exceeded (job |step )?memory limit|oom.kill|out of memory", re.IGNORECASE)
LOG_BYTES = 100_000
OUTPUT_FILE_SIGNAL = 53  # "0:53": slurmstepd could not open --output


def job_of(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the id of the last job that a run was submitted as or started in."""
    return next((str(event["job"]) for event in reversed(events) if event.get("job")), None)


def settle(runs: Sequence[RunDir], seconds: float = 5.0) -> str | None:
    """Record what became of the runs' jobs, as far as their events don't say it; ask SLURM once for all.

    What a launcher that was killed had submitted and not released is taken back. Returns within about `seconds`: None,
    or SLURM's complaint if it did not answer. Asks nothing if no run needs it.
    """
    try:
        is_busy = take_back({run.path.parent for run in runs}, seconds)
    except SlurmError as error:
        return str(error)
    asked = {}
    for run in runs:
        events = run.events()
        job = job_of(events)
        if job is not None and run.state(events) in OPEN:
            asked[run] = (events, job)
    if not asked:
        return None
    try:
        known = job_states({job for _, job in asked.values()}, seconds)
    except SlurmError as error:
        return str(error)
    arrays = {job.split("_")[0] for job in known}
    for run, (events, job) in asked.items():
        event = verdict(run, run.state(events), known.get(job), job.split("_")[0] in arrays)
        if event is None and not is_busy:  # a launcher's jobs are held until it has submitted them all
            event = _waiting(run, events, known.get(job))
        if event:
            _record(run, events, event)
    return None


def _record(run: RunDir, events: Sequence[Mapping[str, Any]], event: Mapping[str, Any]) -> None:
    """Append the event, unless the run moved on meanwhile or its folder is not ours to write."""
    try:
        with run.lock():
            if len(run.events()) == len(events):
                run.record(**event)
    except (UserError, OSError):
        return


def verdict(run: RunDir, state: str, job: Job | None, siblings: bool) -> dict[str, Any] | None:
    """Return the event to record for a run whose events say `state`, None if they say all there is.

    `job`: what SLURM knows of it; `siblings`: whether it knows other tasks of the same array.
    """
    if job is None:
        return _missing(run, state, siblings)
    if job.state in WAITING:
        if state in ("queued", "running"):
            return None
        return {"event": "submitted", "launcher": "slurm", "job": job.id, "cause": f"SLURM: {job.state}"}
    if not job.ended or state == "running":
        return None
    if job.state == "CANCELLED":
        return {"event": "cancelled", "cause": "cancelled in SLURM", "job": job.id}
    told = _told(run, job)
    if told:
        kind, cause, remedy = told
        return {"event": "failed", "kind": kind, "cause": cause, "remedy": remedy, "job": job.id}
    if state == "interrupted":
        return None
    if job.state == "PREEMPTED":
        return {"event": "interrupted", "cause": "preempted by another job", "job": job.id}
    kind, cause, remedy = _unheard(run, job)
    return {"event": "failed", "kind": kind, "cause": cause, "remedy": remedy, "job": job.id}


def _waiting(run: RunDir, events: Sequence[Mapping[str, Any]], job: Job | None) -> dict[str, Any] | None:
    """A queued run's job that SLURM will not start, or will again."""
    if job is None or job.state not in WAITING or run.state(events) != "queued":
        return None
    now, before = holds.told(run, job), holds.last_hold(events)
    if now and (before is None or before.get("cause") != now["cause"]):
        return now
    if before and not now:
        return {"event": "submitted", "launcher": "slurm", "job": job.id, "cause": "SLURM may start it again"}
    return None


def _missing(run: RunDir, state: str, siblings: bool) -> dict[str, Any] | None:
    """A job of which neither squeue nor sacct has a row."""
    if state == "queued" and siblings:  # an array task that is cancelled while it waits leaves no row
        return {"event": "cancelled", "cause": "its job is gone from SLURM and never started"}
    if state in ("queued", "killed"):
        cause = f"neither squeue nor sacct knows its job any more; it was {state}"
        return {"event": "failed", "kind": "lost", "cause": cause, "remedy": _resume(run)}
    return None


def _resume(run: RunDir) -> str:
    step = run.checkpoint_step()
    return f"launch it again: it resumes at step {step}" if step else "launch it again"


def _told(run: RunDir, job: Job) -> tuple[str, str, str] | None:
    """Return (kind, cause, remedy) where SLURM's state says it all."""
    where = f" on {job.nodes}" if job.nodes else ""
    again = _resume(run)
    told = {
        "TIMEOUT": ("time limit", "the job reached its time limit", f"{again}, or give it more hydra.launcher.time"),
        "OUT_OF_MEMORY": (
            "out of memory",
            f"SLURM ended the job{where}: more memory than asked for",
            "ask for more: hydra.launcher.mem",
        ),
        "NODE_FAIL": ("node failure", f"SLURM lost the node{where}", again),
        "BOOT_FAIL": ("node failure", f"the node did not come up{where}", again),
        "DEADLINE": ("time limit", "the job's deadline passed", again),
    }
    return told.get(job.state)


def _unheard(run: RunDir, job: Job) -> tuple[str, str, str]:
    """Return (kind, cause, remedy) of a job that ended without a word in the run's events."""
    if job.signal == OUTPUT_FILE_SIGNAL:
        return (
            "runs folder not visible",
            f"the node {job.nodes} could not write to {run.path}",
            "set runs_dir to a folder that all nodes share",
        )
    said = _said(run)
    memory = next((line for line in said if MEMORY.search(line)), None)
    if memory:
        return "out of memory", memory, "ask for more: hydra.launcher.mem"
    if job.signal:
        name = signal.Signals(job.signal).name if job.signal in signal.valid_signals() else f"signal {job.signal}"
        return "killed", f"SLURM says {job.state}: {name}", f"read {run.path / 'job.log'}, then {_resume(run)}"
    last = f": {said[-1]}" if said else ""
    cause = f"SLURM says {job.state} {job.exit_code}:{job.signal}{last}"
    return "killed", cause, f"read {run.path / 'job.log'}, then {_resume(run)}"


def _said(run: RunDir) -> list[str]:
    """Return the lines that the last job left in job.log, slurmstepd's among them."""
    try:
        with open(run.path / "job.log", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip()[:300] for line in text.rpartition(LOG_HEADER)[2].splitlines()[1:] if line.strip()]
