"""The most memory that an attempt was seen to take: memory.json in its folder."""

from __future__ import annotations

import json

from experiments.store.files import write_atomically
from experiments.store.rundir import Attempt, RunDir
from experiments.values import is_whole

MEMORY = "memory.json"


def note_peak(attempt: Attempt, peak: int) -> None:
    """Write down the bytes of an attempt's peak. OSError if that can't be done."""
    write_atomically(attempt.path / MEMORY, json.dumps({"peak_bytes": peak}) + "\n")


def peak_of(run: RunDir) -> int:
    """Return the bytes of the largest peak of a run's attempts; 0 if none was measured."""
    found = [0]
    for attempt in run.attempts():
        try:
            peak = json.loads((attempt.path / MEMORY).read_bytes())["peak_bytes"]
        except (OSError, ValueError, KeyError, TypeError):  # not measured, or a foreign file
            continue
        found += [peak] if is_whole(peak, 0) else []
    return max(found)
