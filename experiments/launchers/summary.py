"""The table that a launch prints at its end: how far each run got, and why runs failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.launchers.progress import labels
from experiments.launchers.retries import told
from experiments.planning.plan import PlannedRun
from experiments.project import runs_option
from experiments.store.events import TERMINAL, Event, State
from experiments.store.files import read_jsonl
from experiments.store.metrics import accuracy, greedy_accuracy
from experiments.store.rundir import RunDir
from experiments.terminal import console, print_table, printable


def print_summary(runs: Sequence[PlannedRun]) -> None:
    """Print how far each run got: its state and step, its first and last accuracy, reward and length, and its time."""
    columns = ["run", "state", "step", "accuracy T=1", "greedy", "reward", "length", "format", "s/step", "minutes"]
    rows = [[label, *_summary_row(run)] for label, run in zip(labels(runs), runs, strict=True)]
    print_table("where the runs are", columns, rows, ("format", "greedy", "minutes", "s/step"))
    for run in runs:
        if again := told(run.folder.events()):
            console.print(printable(f"{run.name}: {again}"), soft_wrap=True)
        failed = next((event for event in reversed(run.folder.events()) if event["event"] == Event.FAILED), None)
        if run.folder.state() == State.FAILED and failed:
            lines = [f"{run.name} failed: {failed['kind']}: {failed['cause']}", f"  do: {failed['remedy']}"]
            if log := failed_log(run.folder):
                lines.append(f"  log: {log}")
            console.print(printable("\n".join(lines)), soft_wrap=True)


def print_figures(runs: Sequence[PlannedRun]) -> None:
    """Print the command that draws the runs, unless none of them has finished."""
    if not any(run.folder.finished_step() for run in runs):
        return
    folder = runs[0].folder.path.parent
    console.print(f"for the figures: python -m analysis.plot_ablation{runs_option('--runs', folder)}", soft_wrap=True)


def failed_log(run: RunDir) -> Path | None:
    """Return the log of the attempt that a run's last failure is about; None if the attempt has no log."""
    number = failed = None
    for event in run.events():
        if event["event"] == Event.STARTED:
            number = event["attempt"]
        elif event["event"] in TERMINAL:
            failed, number = number, None
    log = run.path / "attempts" / str(failed) / "log"
    return log if log.is_file() else None


def _summary_row(run: PlannedRun) -> list[str]:
    rows = [row for attempt in run.folder.attempts() for row in read_jsonl(attempt.metrics)[0]]
    trained = [row["data"] for row in rows if "training/global_step" in row["data"]]

    def ends(read: Callable[[Mapping[str, Any]], float | None]) -> str:
        values = [value for row in rows if (value := read(row["data"])) is not None]
        return f"{values[0]:.3f} -> {values[-1]:.3f}" if values else "-"

    def trained_ends(key: str, form: str = ".3f") -> str:
        values = [data[key] for data in trained if key in data]
        return f"{values[0]:{form}} -> {values[-1]:{form}}" if values else "-"

    times = sorted(data["perf/time_per_step"] for data in trained if "perf/time_per_step" in data)
    return [
        run.folder.shown_state(),
        f"{run.folder.last_step()}/{run.steps}",
        ends(accuracy),
        ends(greedy_accuracy),
        trained_ends("critic/score/mean"),
        trained_ends("response_length/mean", ".0f"),
        trained_ends("reward/format/mean", ".2f"),
        f"{times[len(times) // 2]:.2f}" if times else "-",
        f"{active_seconds(run.folder) / 60:.1f}",
    ]


def active_seconds(run: RunDir) -> float:
    """Return how many seconds the run's ended attempts took together, by the run's events."""
    total, since = 0.0, None
    for event in run.events():
        if event["event"] == Event.STARTED:
            since = event["time"]
        elif since is not None and event["event"] in (Event.FINISHED, Event.FAILED, Event.INTERRUPTED, Event.CANCELLED):
            total, since = total + event["time"] - since, None
    return total
