"""Check that Ray is given the CPUs that veRL asks it for: it would wait for ever for one that it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.processes.ray_cpus import CPUS_OF_A_GPU, cpus_needed
from experiments.values import is_number

KEY = "ray_kwargs.ray_init.num_cpus"


def ray_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem of the number of CPUs that a resolved config states for Ray; null is always enough."""
    given, needed = config["ray_kwargs"]["ray_init"]["num_cpus"], cpus_needed(config)
    if given is None or (is_number(given) and given == int(given) and given >= needed):
        return []
    ranks = config["trainer"]["n_gpus_per_node"]
    return [
        f"{KEY} must be null or a whole number of at least {needed} for hardware.gpus_per_node={ranks}, but is "
        f"{given!r} (logical CPUs: {CPUS_OF_A_GPU} for each GPU or rank of a node, and those of TransferQueue); "
        f"set {KEY}={needed}"
    ]
