"""Check that a run that was asked to train on GPUs gets them: without them veRL trains on the CPU, and says nothing."""

from __future__ import annotations

import os
import warnings

from experiments.errors import UserError


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
