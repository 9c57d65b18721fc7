"""How a run ended, by what it recorded: a run whose losses are no numbers any more did not finish."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from analysis.records.history import History
from analysis.records.record import RunRecord
from experiments.store.events import State

DIVERGED = "diverged"
# What is no number once the weights are none. Other metrics may be undefined in a sound run.
WATCHED = ("actor/pg_loss", "actor/loss", "actor/grad_norm", "actor/entropy", "actor/kl_loss", "critic/score/mean")
WATCHED_ELSEWHERE = ("train/loss", "train/grad_norm", "train/reward", "loss/mean")


def settled(record: RunRecord) -> RunRecord:
    """Return the record with its state, "diverged" if from some step on to its end the losses were no numbers."""
    if record.state in (State.RUNNING, State.PLANNED, State.QUEUED):
        return record
    last_sound = last_sound_step(record.history)
    if last_sound is None or last_sound >= record.history.last_step():
        return record
    return replace(record, state=DIVERGED, diverged_from=last_sound + 1)


def last_sound_step(history: History) -> int | None:
    """Return the last trained step whose losses are numbers, 0 if none is; None if no step has any."""
    known = False
    for step in reversed(history.trained_steps()):
        share = unsound_share(history.rows[step])
        known = known or share is not None
        if share is not None and share < 0.5:
            return step
        if share is None:
            return None if not known else step
    return 0 if known else None


def unsound_share(row: Mapping[str, float]) -> float | None:
    """Return the share of the watched metrics that are no finite numbers, None if the row has none."""
    values = [row[name] for name in (*WATCHED, *WATCHED_ELSEWHERE) if name in row]
    return sum(not math.isfinite(value) for value in values) / len(values) if values else None
