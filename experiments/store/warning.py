"""The warning that an attempt will be killed soon.

It is a file in the attempt's folder, so that it reaches the trainer in any process on any node. The process that gets
the signal writes it. The trainer looks for it at the end of each step, saves if there is time for that, and stops. A
step that lasts longer is cut short, and the run resumes from its last checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.store.files import write_atomically

FILE = "warning.json"
END_SECONDS = 30.0  # needed before the kill, to end an attempt and to have its job queued again


def end_seconds(notice: float) -> float:
    """Return how many seconds before the kill an attempt is ended that was warned `notice` seconds before it."""
    return min(END_SECONDS, notice / 2)


def warn(attempt: Path, deadline: float) -> None:
    """Say that the attempt (its folder) will be ended at `deadline`, in seconds since the epoch."""
    write_atomically(attempt / FILE, json.dumps({"deadline": deadline}) + "\n")


def deadline(attempt: Path) -> float | None:
    """Return when the attempt will be ended, in seconds since the epoch; None if it was not warned."""
    try:
        return float(json.loads((attempt / FILE).read_text())["deadline"])
    except FileNotFoundError:
        return None
