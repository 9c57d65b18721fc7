"""What this machine has for runs: the CPU cores and the memory that this process may use, and its GPUs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from experiments.processes import cgroup

VISIBLE = "CUDA_VISIBLE_DEVICES"
BUILT_FOR = re.compile(r"^(?:cuda|hip)\b.*=\s*(.+)$", re.MULTILINE)  # in torch/version.py


@dataclass(frozen=True)
class Gpus:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""

    names: tuple[str, ...]
    source: str
    """Who says so, for a message."""


def cores() -> int:
    """Return how many CPU cores this process may use: its affinity, and its cgroup's quota if that is less."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cpu_quota()
    return max(1, min(own, int(quota)) if quota is not None else own)


def free_memory() -> int:
    """Return how many bytes of memory new processes may take: what is free, and what the cgroup still allows."""
    free, allowed = int(psutil.virtual_memory().available), cgroup.free_memory()
    return free if allowed is None else min(free, allowed)


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


def torch_knows_gpus() -> bool:
    """Return whether the installed torch was built for GPUs, by its version.py; True if that does not tell.

    torch is not imported, which takes seconds. Whether the driver suits it, an attempt asks torch (attempt/devices.py).
    """
    spec = importlib.util.find_spec("torch")
    try:
        text = (Path(spec.origin).parent / "version.py").read_text() if spec and spec.origin else ""
    except OSError:
        return True
    built = BUILT_FOR.findall(text)
    return not built or any(value.strip() != "None" for value in built)


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
