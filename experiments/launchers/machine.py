"""What this machine has for runs: the CPU cores and the memory that this process may use, and its GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # version 2; in a container it is the container's own
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpus:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""

    names: tuple[str, ...]
    source: str
    """Who says so, for a message."""


def cores(cgroup: Path = CGROUP) -> int:
    """Return how many CPU cores this process may use: its affinity, and its cgroup's quota if that is less."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(own, int(quota)) if quota is not None else own)


def _quota(cgroup: Path) -> float | None:
    """Return how many cores the cgroup may keep busy; None if it is not limited."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
        return int(allowed) / int(period)
    except (OSError, ValueError):  # "max", or no cgroup of version 2
        return None


def free_memory(cgroup: Path = CGROUP) -> int:
    """Return how many bytes of memory new processes may take: what is free, and what the cgroup still allows."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        stats = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used + int(stats.get("inactive_file", 0))))  # the kernel drops such pages first


def gpus() -> Gpus | None:
    """Return the GPUs that this process may use; None if nobody can tell.

    CUDA_VISIBLE_DEVICES counts if it is set, as SLURM does in a job: indices, UUIDs and MIG names stay as they are.
    """
    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        usable = names[: next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))]
        return Gpus(tuple(usable), f"{VISIBLE}={os.environ[VISIBLE]}")
    listed = nvidia_smi()
    return None if listed is None else Gpus(tuple(listed), "nvidia-smi")


def nvidia_smi() -> dict[str, str] | None:
    """Return {index: UUID} of the GPUs of this machine; None if nvidia-smi is not here or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return None
    pairs = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    return {index.strip(): uuid.strip() for index, uuid in pairs}
