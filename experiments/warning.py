"""The warning that an attempt will be killed soon.

A file in the attempt's folder, so that it reaches the trainer whatever process on whatever node that is. Whoever gets
the signal writes it; the trainer looks at the end of each step, saves if there is time for it, and stops.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.rundir import write_atomically

FILE = "warning.json"


def warn(attempt: Path, deadline: float) -> None:
    """Say that the attempt (its folder) will be killed at `deadline`, in seconds since the epoch."""
    write_atomically(attempt / FILE, json.dumps({"deadline": deadline}) + "\n")


def deadline(attempt: Path) -> float | None:
    """Return when the attempt will be killed, None if nobody said so."""
    try:
        return float(json.loads((attempt / FILE).read_text())["deadline"])
    except FileNotFoundError:
        return None
