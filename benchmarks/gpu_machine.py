"""The machine that benchmarks/gpu.py measures on: its GPUs, and the packages that it has."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.packages import versions
from experiments.errors import UserError

TORCH_SECONDS = 300
# What torch is built for, and the MiB of the first GPU that it sees, 0 for none.
ASK_TORCH = """
import torch
print(torch.version.cuda, torch.cuda.get_device_properties(0).total_memory >> 20 if torch.cuda.is_available() else 0)
"""
PACKAGES = ("verl", "torch", "vllm", "flash-attn", "transformers", "ray", "tensordict")


@dataclass(frozen=True)
class Machine:
    """What decides how the cases are run."""

    device: str
    """cuda or cpu."""
    name: str = "CPU"
    gpus: int = 0
    memory_gib: int = 0
    """Of one GPU."""
    driver: str = ""
    indices: tuple[str, ...] = ()
    """Of the GPUs, by nvidia-smi's count."""
    vllm: bool = False
    flash_attn: bool = False


def find_machine(device: str) -> Machine:
    """Return the machine to measure on; UserError if a GPU is asked for and can't be used."""
    if device == "cpu":
        return Machine("cpu", vllm=importlib.util.find_spec("vllm") is not None)
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (FileNotFoundError, subprocess.TimeoutExpired):
        lines = []
    found = visible([[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 4])
    if not found:
        raise UserError("nvidia-smi must find a GPU, but finds none; run this on a GPU node, or add --device cpu")
    try:
        asked = [sys.executable, "-c", ASK_TORCH]
        seen = subprocess.run(asked, capture_output=True, text=True, timeout=TORCH_SECONDS).stdout.split()
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"torch must be imported within {TORCH_SECONDS} s, but is not; put the environment on a local disk"
        ) from error
    _, _, name, memory, driver = found[0]
    if len(seen) != 2 or seen[1] == "0":
        built = seen[0] if seen else "none"
        raise UserError(
            f"torch must see the {name}, but doesn't: it is built for CUDA {built}, the driver is {driver}; "
            "do: pip install -e '.[gpu]', and see docs/gpu.md for the driver"
        )
    return Machine(
        device="cuda",
        name=name,
        gpus=len(found),
        memory_gib=int(memory if memory.isdigit() else seen[1]) // 1024,  # one that shares the host's says [N/A]
        indices=tuple(index for index, *_ in found),
        driver=driver,
        vllm=importlib.util.find_spec("vllm") is not None,
        flash_attn=importlib.util.find_spec("flash_attn") is not None,
    )


def visible(gpus: list[list[str]]) -> list[list[str]]:
    """Return those of nvidia-smi's GPUs (index, uuid, ...) that CUDA_VISIBLE_DEVICES leaves, in its order."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not chosen:  # if it is empty, torch sees none of them: find_machine reports it
        return gpus
    names = [name.strip() for name in chosen.split(",")]
    found = [[gpu for gpu in gpus if name == gpu[0] or gpu[1].startswith(name)] for name in names]
    return [gpu for matches in found for gpu in matches[:1]]


def describe(machine: Machine) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    return {
        **{name: getattr(machine, name) for name in ("device", "name", "gpus", "memory_gib", "driver")},
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": versions(PACKAGES),
    }
