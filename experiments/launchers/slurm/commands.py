"""Calling SLURM's own programs: each with a time limit, none with what the submitting shell happens to hold."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

# SLURM's programs take options from their environment: those of the job in which the user sits, or of what he likes to
# see of his own squeue, must not reach ours.
PROGRAMS = ("SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
LEAKS = ("SLURM_", "SLURMD_", *PROGRAMS, "PMI", "R1Z_")
LEAKS_ONE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "RAY_ADDRESS", "RAY_TMPDIR")
KEPT = ("SLURM_CONF",)  # which cluster


class SlurmError(Exception):
    """A program of SLURM failed, did not answer in time, or is not installed; the text is its own message."""


class SlurmRefused(SlurmError):
    """A program of SLURM ended with an error of its own: what it was asked to do is not done."""


def clean_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without what an allocation or another run put there."""
    variables = os.environ if variables is None else variables
    return {
        name: value
        for name, value in variables.items()
        if name in KEPT or not (name.startswith(LEAKS) or name in LEAKS_ONE)
    }


def call(program: str, *arguments: str | Path, seconds: float = 30.0) -> str:
    """Return what a program prints; SlurmError if it fails or takes longer than `seconds`."""
    seconds = max(seconds, 0.1)  # what is left of a time that others have used up
    try:
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle: a submission is made or not made, never torn
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {program} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{program} did not answer within {seconds:g} s") from None
    if done.returncode:
        raise SlurmRefused(done.stderr.strip() or f"{program} ended with {done.returncode}")
    return done.stdout
