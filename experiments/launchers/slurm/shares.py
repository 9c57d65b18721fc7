"""What each run of a job with several runs has of the job's allocation: its GPUs, which it locks, and its cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.errors import UserError
from experiments.launchers import machine
from experiments.launchers.device_locks import DeviceLock, lock_device
from experiments.launchers.places import on_cpu, ranks_of
from experiments.terminal import counted
from experiments.values import Config
from experiments.variables import CORES

CPUS = "SLURM_CPUS_PER_TASK"


@dataclass(frozen=True)
class Share:
    """The part of one run."""

    gpus: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them; none for a run on the CPU."""
    cores: int

    def variables(self) -> dict[str, str]:
        """Return the variables that tell the run's processes of it."""
        told = {CORES: str(self.cores), CPUS: str(self.cores)}
        return {**told, machine.VISIBLE: ",".join(self.gpus)} if self.gpus else told


def share_of(place: int, runs: int, config: Config) -> Share:
    """Return the share of one of the runs of this process's job, in which all have equal shares.

    Args:
        place: which run of the job it is.
        runs: how many the job was submitted for.
        config: the run's resolved config. UserError if the share has fewer GPUs than it trains on.
    """
    cores = max(1, int(os.environ.get(CPUS) or machine.cores()) // runs)
    if on_cpu(config):
        return Share((), cores)
    there = machine.gpus()
    names, needed = there.names if there else (), ranks_of(config)
    each = len(names) // runs
    if each < needed:
        raise UserError(
            f"a job with {runs} runs must have {counted(runs * needed, 'GPU')}, but can tell of {len(names)} "
            f"({there.source if there else 'no nvidia-smi, and CUDA_VISIBLE_DEVICES is not set'}); ask for them with "
            "hydra.launcher.gpus_per_node or gres, or set hydra.launcher.arms_per_job=1"
        )
    return Share(names[place * each : (place + 1) * each], cores)


def lock_devices(names: Sequence[str], run: str) -> tuple[list[DeviceLock], list[str]]:
    """Lock a run's GPUs against launchers on this node; return the locks, and a line for each GPU that others hold.

    SLURM has given the GPU to this job, so the run is executed all the same.
    """
    locks, notes = [], []
    for name in names:
        try:
            lock = lock_device(name, run)
        except OSError as error:
            notes.append(f"GPU {name} can't be locked: {error}")
            continue
        if isinstance(lock, DeviceLock):
            locks.append(lock)
        else:
            notes.append(f"GPU {name}: {lock}, but SLURM has given it to this job")
    return locks, notes
