"""Check that a run that was asked to train on GPUs gets them: without them veRL trains on the CPU, and says nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import warnings
from typing import Any

from experiments.errors import UserError
from experiments.values import is_number

TOLERANCE = 1.0  # GiB: cards of one kind differ a little in what the driver keeps


def check_gpus(wanted: int) -> None:
    """Raise UserError unless torch can use so many GPUs on this machine."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen >= wanted:
        return
    built = torch.version.cuda or torch.version.hip
    if built is None:
        why, do = (
            f"torch {torch.__version__} was built without CUDA",
            "install `.[gpu]` in a new venv, as docs/gpu.md says",
        )
    else:
        said = [str(warning.message).split(". ")[0] for warning in told]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        limited = [f"CUDA_VISIBLE_DEVICES is {visible}"] if visible is not None else []
        why = ", ".join([f"torch was built for CUDA {built}", *limited, *said]).replace(";", ",")
        do = "compare `nvidia-smi` (the driver, the GPUs) with docs/gpu.md"
    raise UserError(f"torch must see {wanted} GPU{'s' * (wanted > 1)} on this node, but sees {seen}: {why}; {do}")


def check_memory(stated: Any) -> None:
    """Raise UserError if a GPU that this process may use has less memory than `stated`, which is hardware.memory_gib.

    By it placement.py has chosen what stays on a GPU. Nothing is raised where nvidia-smi does not tell the memory.
    """
    least = min(visible_memory().values(), default=None)
    if least is None or not is_number(stated) or stated <= least + TOLERANCE:
        return
    raise UserError(
        f"hardware.memory_gib must be at most {int(least)}, the GiB of a GPU of this node (nvidia-smi), but is "
        f"{stated:g}; set hardware.memory_gib={int(least)}, or choose hardware= for what is here"
    )


def visible_memory() -> dict[str, float]:
    """Return {index: GiB} of the GPUs that this process may use, as far as nvidia-smi tells; torch stays untouched.

    Asked for a GPU's memory, torch would keep a part of it for this process.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else {name.strip() for name in visible.split(",")}
    found = {}
    for index, uuid, memory in (map(str.strip, line.split(",")) for line in lines if line.count(",") == 2):
        with contextlib.suppress(ValueError):  # "[N/A]"
            if chosen is None or chosen & {index, uuid}:
                found[index] = int(memory) / 1024  # nvidia-smi tells MiB
    return found
