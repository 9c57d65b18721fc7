"""The warning that an attempt will be killed soon.

A file in the attempt's folder, so that it reaches the trainer whatever process on whatever node that is. Whoever gets
the signal writes it; the trainer looks at the end of each step, saves if there is time for it, and stops. A step that
lasts longer is cut short: the last checkpoint counts.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.store.files import write_atomically

FILE = "warning.json"
END_SECONDS = 30.0  # what it takes to end an attempt and to have its job queued again, before the kill


def end_seconds(notice: float) -> float:
    """Return how long before the kill an attempt is ended that was warned `notice` seconds before it."""
    return min(END_SECONDS, notice / 2)


def warn(attempt: Path, deadline: float) -> None:
    """Say that the attempt (its folder) will be ended at `deadline`, in seconds since the epoch."""
    write_atomically(attempt / FILE, json.dumps({"deadline": deadline}) + "\n")


def deadline(attempt: Path) -> float | None:
    """Return when the attempt will be ended, None if nobody said so."""
    try:
        return float(json.loads((attempt / FILE).read_text())["deadline"])
    except FileNotFoundError:
        return None
