"""Which job of which cluster a run has, as its events recorded it.

Clusters number their jobs from 1, each for itself, and several can share a runs folder. So an id alone names no job:
before anything is concluded about a job or done to it, its cluster's name and its own name are compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.launchers.slurm.commands import call
from experiments.store.events import Event
from experiments.variables import own_job

JOB_NAME = "r1z-"  # all our jobs' names begin so
ARRAYS = ".slurm"  # in runs_dir; it holds a folder for each array, whose name is its job's name without JOB_NAME
_here: dict[str | None, str] = {}  # the name of the cluster that each SLURM_CONF leads to


@dataclass(frozen=True)
class RunJob:
    """A job or an array task ("12_3") of a run. None: an earlier version did not record it."""

    id: str
    cluster: str | None = None
    name: str | None = None

    @property
    def array(self) -> str:
        """The id without the task's number."""
        return self.id.split("_")[0]

    def is_same(self, other: RunJob | None) -> bool:
        """Return whether both are one job. A cluster that was not recorded can be any."""
        if other is None or self.id != other.id:
            return False
        return self.cluster == other.cluster or self.cluster is None or other.cluster is None

    def is_elsewhere(self, here: str | None) -> bool:
        """Return whether the job is of another cluster than the one with this name."""
        return self.cluster is not None and self.cluster != here

    def has_name(self, name: str) -> bool:
        """Return whether a job with this id and this name is the run's."""
        return name == self.name if self.name else name.startswith(JOB_NAME)

    def __str__(self) -> str:
        return f"job {self.id} of cluster {self.cluster}" if self.cluster else f"job {self.id}"


def run_job(events: Sequence[Mapping[str, Any]]) -> RunJob | None:
    """Return the last job that a run was submitted as or started in; None if it was last launched locally.

    A run that is launched locally inside a user's allocation records the job, too: that job is not the run's.
    """
    job, local = None, False
    for event in events:
        if event.get("event") in (Event.LAUNCHED, Event.SUBMITTED):
            local = event.get("launcher") == "local"
        if local:
            job = None
        elif event.get("job"):
            told = RunJob(str(event["job"]), event.get("cluster"), event.get("job_name"))
            if job is None or told.id != job.id or told.cluster:  # what is recorded later of a job repeats only its id
                job = told
    return job


def own_run_job() -> RunJob | None:
    """Return the SLURM job of this process; None outside of one."""
    told = own_job()
    return RunJob(told["job"], told.get("cluster"), told.get("job_name")) if told else None


def cluster_name(seconds: float = 30.0) -> str:
    """Return the name of the cluster whose SLURM this process calls; it is asked for once. Raises SlurmError."""
    conf = os.environ.get("SLURM_CONF")
    if conf not in _here:
        found = re.search(
            r"^ClusterName\s*=\s*(\S+)", call("scontrol", "show", "config", seconds=seconds), re.MULTILINE
        )
        _here[conf] = found[1] if found else ""
    return _here[conf]


def known_cluster_name() -> str | None:
    """Return the name of this process's cluster if it has been asked for already, else None."""
    return _here.get(os.environ.get("SLURM_CONF"))
