"""Call SLURM's programs, each with a time limit and without the SLURM variables of the shell that submits."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from experiments.variables import NOTIFY, SWEEP

# SLURM's programs read options from their environment. The options of a job in which the user works, or of how the user
# wants to see squeue, must not reach our calls.
PROGRAMS = ("SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
LEAKS = ("SLURM_", "SLURMD_", *PROGRAMS, "PMI", "R1Z_")
LEAKS_ONE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "RAY_ADDRESS", "RAY_TMPDIR")
KEPT = ("SLURM_CONF", NOTIFY, SWEEP)  # which cluster, and whom the jobs tell of the end of which sweep


# The words of a program that has no answer from slurmctld, which may have done what it was asked to do, or do it yet.
LOST = r"timed out|unable to contact|communication|connection|zero bytes|endpoint|not responding|did not answer"
LATE_SECONDS = 10.0  # how much later than such words it may be done


class SlurmError(Exception):
    """A program of SLURM failed, did not answer in time, or is not installed. The text is the program's own message."""


class SlurmRefused(SlurmError):
    """A program of SLURM ended with an error: it did not do what it was asked to do."""


def answer_is_lost(error: SlurmError) -> bool:
    """Return whether the program failed on the way to slurmctld or back, so that nobody knows what was done."""
    return not isinstance(error, SlurmRefused) or re.search(LOST, str(error), re.IGNORECASE) is not None


def clean_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the variables that an allocation or another run set. None: of this process."""
    variables = os.environ if variables is None else variables
    return {
        name: value
        for name, value in variables.items()
        if name in KEPT or not (name.startswith(LEAKS) or name in LEAKS_ONE)
    }


def call(program: str, *arguments: str | Path, seconds: float = 30.0) -> str:
    """Return what a program prints; SlurmError if it fails or takes longer than `seconds`."""
    seconds = max(seconds, 0.1)  # callers pass what is left of their time, which may be nothing
    try:
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # we handle Ctrl-C: a submission must be made or not made, never cut in the middle
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {program} on this machine") from None
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode("utf-8", "replace").strip()  # bytes, whatever `text` says
        raise SlurmError(f"{program} did not answer within {seconds:g} s{': ' if said else ''}{said}") from None
    if done.returncode:
        raise SlurmRefused(done.stderr.strip() or f"{program} ended with {done.returncode}")
    return done.stdout
