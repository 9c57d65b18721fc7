"""The environment variables by which the processes of a run find each other, and the SLURM job of this process."""

from __future__ import annotations

import hashlib
import os
import signal

MARKER = "R1Z_RUN"  # the run's folder; every process of an attempt inherits it, so that we can find them all
EXECUTION = "R1Z_EXECUTION"  # an id of this execution of a run: two executions may overlap
SUPERVISOR = "R1Z_SUPERVISOR"  # the process id of an attempt's parent, without which the attempt must not go on
ORIGIN = "R1Z_CODE_ORIGIN"  # the project from which this process's code was copied; frozen configs have paths into it
FORK_SOCKET = "R1Z_FORK_SOCKET"  # where the launcher's fork server listens, if it started one
CLUSTER = "R1Z_CLUSTER"  # the folder of the launcher's Ray head, which says how Ray's daemons ended
RAY_ADDRESS = "R1Z_RAY_ADDRESS"  # the launcher's Ray cluster, if it started one
NOTIFY = "R1Z_NOTIFY"  # whom the jobs of a sweep tell of its end: what notify= says
SWEEP = "R1Z_SWEEP"  # the name of the sweep of a job, and the ids of its runs
MESSAGE = "R1Z_MESSAGE"  # what the command of notify= is to tell
THREADS = "R1Z_THREADS"  # how many threads a training process uses
CORES = "R1Z_CORES"  # how many CPU cores a run has, where the launcher executes several side by side
STACK_SIGNAL = signal.SIGUSR2  # asks a process of a run for its Python stacks
NOT_FINITE = "R1Z_NOT_FINITE"  # watch.not_finite: what follows on a loss that is NaN or infinite
# What Ray reads when a cluster starts: send no usage report; don't count CUDA devices, which would hide our logical
# ones; start no workers before somebody asks for them, since ours need an environment of their own.
RAY_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
}


def socket_mark(run: str) -> str:
    """Return the part of the names of a run's sockets in /tmp that no other run's have; `run`: the value of MARKER."""
    return hashlib.sha256(run.encode()).hexdigest()[:12]


def own_job_id() -> str | None:
    """Return the id of the SLURM job in which this process runs, "12" or "12_3"; None outside of one."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def own_job() -> dict[str, str]:
    """Return what an event records of this process's SLURM job: its id, cluster and name; {} outside of one."""
    told = {
        "job": own_job_id(),
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "job_name": os.environ.get("SLURM_JOB_NAME"),
    }
    return {name: value for name, value in told.items() if value} if told["job"] else {}
