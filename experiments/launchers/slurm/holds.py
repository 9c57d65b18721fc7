"""Find out why a waiting job will not start by itself, and what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.launchers.slurm.queue import Job
from experiments.store.events import TERMINAL, Event, last_event
from experiments.store.rundir import RunDir

HELD = "held"  # the kind of hold that can be released
# SLURM's reasons for which a job waits for ever, each with the setting that is wrong. A job whose reason says "held"
# can be released.
NEVER = {
    "PartitionTimeLimit": "hydra.launcher.time",
    "PartitionNodeLimit": "hardware.nodes",
    "BadConstraints": "hydra.launcher.sbatch",
    "InvalidAccount": "hydra.launcher.account",
    "InvalidQOS": "hydra.launcher.qos",
    "DependencyNeverSatisfied": "hydra.launcher.sbatch",
}
# The limits of an association or a QOS that a single job breaks; what other jobs use up is free again some day.
OF_ONE_JOB = re.compile(
    r"(?:QOS|Assoc)(?:Max(?P<most>WallDuration|[A-Za-z]+Minutes|Cpu|GRES|Mem|Memory|Node)Per(?:Job|Node)(?:Limit)?"
    r"|Min(?P<least>Cpu|GRES|Memory|Node)(?:NotSatisfied)?)"
)
LIMITED = {
    "Cpu": "hydra.launcher.cpus_per_task",
    "GRES": "hardware.gpus_per_node",
    "Mem": "hydra.launcher.mem",
    "Memory": "hydra.launcher.mem",
    "Node": "hardware.nodes",
}


def wrong_setting(reason: str) -> str | None:
    """Return the setting for which a job with this reason waits for ever; None if it may start by itself."""
    if limit := OF_ONE_JOB.fullmatch(reason):
        return LIMITED.get(limit["most"] or limit["least"], "hydra.launcher.time")
    return NEVER.get(reason)


def told(run: RunDir, job: Job) -> dict[str, Any] | None:
    """Return the event to record for a waiting job; None if the job may start by itself."""
    # The folder is named always: the event that has this text may be read from anywhere.
    command = f"python -m experiments.runs --runs-dir {shlex.quote(str(run.path.parent))}"
    if job.held:
        kind = HELD
        remedy = f"mend what the reason names, then: scontrol release {job.id}, or {command} retry {run.id}"
    elif setting := wrong_setting(job.reason):
        kind = "never starts"
        again = f"{command} cancel {run.id}, then submit it again with another"
        remedy = f"{again} {setting}"
    else:
        return None
    cause = f"SLURM does not start job {job.id}: {job.reason}"
    return {"event": Event.HELD, "job": job.id, "kind": kind, "cause": cause, "remedy": remedy}


def last_hold(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the event that says why a run's job does not start; None if the job may start or has started."""
    last = last_event(events, Event.HELD, Event.SUBMITTED, Event.STARTED, *TERMINAL)
    return last if last is not None and last["event"] == Event.HELD else None
