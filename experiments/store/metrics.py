"""Read accuracy and the seconds of a step from rows of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir
from experiments.values import as_float, at, is_number

STEP_TIME = "perf/time_per_step"  # only the row of a trained step has it


def accuracy(row: Mapping[str, Any]) -> float | None:
    """Return the sampled validation accuracy of a row of metrics, None if it has none."""
    return _accuracy(row, greedy=False)


def greedy_accuracy(row: Mapping[str, Any]) -> float | None:
    """Return the greedy validation accuracy of a row of metrics, None if it has none."""
    return _accuracy(row, greedy=True)


def _accuracy(row: Mapping[str, Any], greedy: bool) -> float | None:
    names = (name for name in row if name.startswith("val-core/") and "/acc/mean@" in name)
    return as_float(row.get(next((name for name in names if ("_greedy/" in name) == greedy), "")))


def final_accuracy(run: RunDir) -> float | None:
    """Return the last validation accuracy (0 to 1, responses sampled) that a run recorded; None before the first."""
    rows = [row.get("data", {}) for attempt in run.attempts() for row in read_jsonl(attempt.metrics)[0]]
    values = [value for value in map(accuracy, rows) if value is not None]
    return values[-1] if values else None


def step_times(run: RunDir) -> list[float]:
    """Return the seconds of every step that the run's attempts recorded."""
    rows = [at(row, "data") for attempt in run.attempts() for row in read_jsonl(attempt.metrics)[0]]
    # A foreign folder may hold anything: what is not a number is left out.
    times = [data.get(STEP_TIME) for data in rows if isinstance(data, Mapping)]
    return [float(time) for time in times if is_number(time)]
