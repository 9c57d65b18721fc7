"""The status of a run, read from the ends of its files, so that a thousand runs can be listed quickly."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launchers.slurm import half_submitted
from experiments.launchers.slurm.holds import last_hold
from experiments.launchers.slurm.run_job import known_cluster_name, run_job
from experiments.store.events import OPEN, Event, State
from experiments.store.metrics import accuracy
from experiments.store.rundir import RunDir
from experiments.values import as_float, is_whole

TAIL_BYTES = 65_536  # a dozen of veRL's rows
RATE_STEPS = 10  # the pace is the mean over this many last steps
TRAINED = b'"training/global_step"'  # only a row of a trained step has it
VALIDATED = b'"val-core/'


@dataclass(frozen=True)
class Status:
    """A run at a glance. None: not known yet."""

    run: RunDir
    state: State
    step: int
    of: int | None
    """The step that the run was last asked to reach."""
    accuracy: float | None
    """The last validation accuracy, sampled as training samples (greedy validation rows left out)."""
    response_length: float | None
    """The last training step's mean response length, in tokens."""
    steps_per_hour: float | None
    """The pace of the last RATE_STEPS steps; validations count, start-up does not."""
    attempt: int
    """How many attempts there are, the present one included."""
    where: str
    """The host of the last attempt, or the job that waits for one."""

    @property
    def eta_seconds(self) -> float | None:
        """How many seconds a running run still takes at its pace; None if it does not run or has no pace yet."""
        if self.state != State.RUNNING or not self.steps_per_hour or self.of is None:
            return None
        return max(0, self.of - self.step) / self.steps_per_hour * 3600

    def as_json(self) -> dict[str, Any]:
        """Return what `list --json` prints of the run."""
        return {
            "name": self.run.path.name,
            "id": self.run.id,
            "path": str(self.run.path),
            "state": self.state,
            "step": self.step,
            "of": self.of,
            "accuracy": self.accuracy,
            "response_length": self.response_length,
            "steps_per_hour": self.steps_per_hour,
            "eta_seconds": self.eta_seconds,
            "attempt": self.attempt,
            "where": self.where,
        }


def status_of(run: RunDir) -> tuple[Status, list[str]]:
    """Return (the status of a run, notes on why its job is held and on files with damaged lines).

    Raises UserError or OSError if the folder can't be read, or was made by a newer version.
    """
    events, torn = run.read_events()
    state = run.shown_state(events)
    notes = [_damage(run, "events.jsonl", torn)] if torn else []
    hold = last_hold(events) if state == State.QUEUED else None
    if hold:
        notes.append(f"{run.path.name}: {hold.get('cause')}; do: {hold.get('remedy')}")
    job = run_job(events) if state in OPEN else None
    elsewhere = job if job is not None and job.is_elsewhere(known_cluster_name()) else None
    if elsewhere and state == State.KILLED:
        notes.append(f"{run.path.name}: nobody is seen to hold its lock, but {elsewhere} may still train; look there")
    attempts = run.attempts()
    step, pace = 0, None
    row: Mapping[str, Any] = {}
    validated: Mapping[str, Any] = {}
    for attempt in reversed(attempts):
        lines, whole = tail(attempt.metrics)
        if not whole and state != State.RUNNING:  # a living writer may be in the middle of a line
            notes.append(_damage(run, f"attempts/{attempt.number}/metrics.jsonl", 1))
        trained = [line for line in lines if TRAINED in line]
        if trained and not step:
            last = _row(trained[-1])
            step = last["step"] if is_whole(last.get("step"), 1) else 0
            row, pace = last.get("data", {}), _pace(trained[-RATE_STEPS:])
        if not validated:
            found = next((line for line in reversed(lines) if VALIDATED in line), None)
            if found is None:
                found = next((line for line in reversed(tail(attempt.metrics, None)[0]) if VALIDATED in line), b"{}")
            validated = _row(found).get("data", {})
        if step and validated:
            break
    status = Status(
        run=run,
        state=state,
        step=step,
        of=run.target_step(events),
        accuracy=accuracy(validated),
        response_length=as_float(row.get("response_length/mean")),
        steps_per_hour=3600 / pace if pace else None,
        attempt=len(attempts),
        where=_where(events) + (f" of cluster {elsewhere.cluster}" if elsewhere else "") + (" held" if hold else ""),
    )
    return status, notes


def settle(runs: Sequence[RunDir]) -> list[str]:
    """Ask SLURM what happened to the runs' jobs and record it in their events; return SLURM's complaint, if any."""
    if not any(b'"submitted"' in _read(run.events_file) for run in runs) and not any(
        half_submitted.pending(runs_dir) for runs_dir in {run.path.parent for run in runs}
    ):
        return []
    from experiments.launchers.slurm.settle import settle as settle_jobs

    complaint = settle_jobs(runs)
    return [f"SLURM did not say what became of the jobs: {complaint}"] if complaint else []


def tail(path: Path, size: int | None = TAIL_BYTES) -> tuple[list[bytes], bool]:
    """Return (the whole lines in the last `size` bytes of a file, whether it ends with a whole line)."""
    try:
        with open(path, "rb") as file:
            start = max(0, file.seek(0, 2) - size) if size else 0
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return [], True
    whole = not lines[-1] or bool(_row(lines[-1]))
    lines = [line for line in (lines[1:] if start else lines) if line.strip()]
    return lines if whole else lines[:-1], whole


def ago(seconds: float) -> str:
    """Return a time span in two units at most: 45s, 12m, 3h05m, 2d04h."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)}s"
    if minutes < 60:
        return f"{minutes}m"
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes < 1440 else f"{minutes // 1440}d{minutes // 60 % 24:02}h"


def local_time(moment: Any) -> str:
    """Return an event's time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(as_float(moment) or 0.0))


def _pace(lines: Sequence[bytes]) -> float | None:
    """Return the mean seconds per step in rows of metrics, with validations; None if no row has its time."""
    times = [
        seconds + (_number(line, b"timing_s/testing") or 0.0)
        for line in lines
        if (seconds := _number(line, b"perf/time_per_step"))
    ]
    return sum(times) / len(times) if times else None


def _number(line: bytes, key: bytes) -> float | None:
    """Return one number of a row of metrics without parsing the hundred others, which saves a third of list's time."""
    start = line.find(b'"' + key + b'":')
    if start < 0:
        return None
    start += len(key) + 3
    end = min(found for found in (line.find(b",", start), line.find(b"}", start), len(line)) if found >= 0)
    try:
        return float(line[start:end])
    except ValueError:
        return None


def _where(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the host and the job of the last submission or attempt, e.g. "node1 job 12_3"."""
    for event in reversed(events):
        if event.get("event") in (Event.SUBMITTED, Event.STARTED):
            job = f"job {event['job']}" if event.get("job") else ""
            return " ".join(part for part in (str(event.get("host", "")), job) if part)
    return ""


def _damage(run: RunDir, file: str, lines: int) -> str:
    lost = "a torn or damaged line was" if lines == 1 else f"{lines} torn or damaged lines were"
    return f"{run.path.name}/{file}: {lost} passed over"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("data", {}), dict) else {}
