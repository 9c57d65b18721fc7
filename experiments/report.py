"""What a launch prints: the plan, the progress, the summary. Reads the runs' folders; holds no state of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from experiments.plan import PlannedRun
from experiments.rundir import TERMINAL, RunDir, read_jsonl

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
LINE_SECONDS = 20.0  # how often a line is printed where there is no terminal for a bar


def labels(runs: Sequence[PlannedRun]) -> list[str]:
    """Return for each run the parts of its name that not all of them share; the whole name if they share all."""
    parts = [run.name.rsplit("-", 1)[0].split(",") for run in runs]
    varying = [[part for part in own if not all(part in other for other in parts)] for own in parts]
    return [",".join(some or own) for some, own in zip(varying, parts, strict=True)]


class Progress:
    """A bar for the run in progress; lines instead where the output is no terminal."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.total, self.number = len(runs), 0
        self.labels = dict(zip((run.name for run in runs), labels(runs), strict=True))
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task: Any = None

    def __enter__(self) -> Progress:
        if console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if console.is_terminal:
            self.bars.stop()

    def begin(self, run: PlannedRun) -> None:
        """Show a new run."""
        self.run, self.number = run, self.number + 1
        self.attempts_before = len(run.run.attempts())
        self.offset, self.step, self.figures = 0, run.reached, "starting"
        self.first: tuple[int, float] | None = None
        self.left, self.printed = "", time.monotonic()
        label = f"[{self.number}/{self.total}] {self.labels[run.name]}"
        if console.is_terminal:
            self.task = self.bars.add_task(label, total=run.steps, completed=self.step, figures=self.figures, left="")
        else:
            console.print(f"{label}: starting, to step {run.steps}")
        self.label = label

    def update(self) -> None:
        """Read what the attempt wrote since the last look."""
        for row in self._new_rows():
            data = row["data"]
            if "training/global_step" in data:
                self.step = int(row["step"])
                self.left = f"ETA {self._seconds_left(data.get('perf/time_per_step', 0.0))}"
                self.figures = f"reward {data['critic/score/mean']:.3f}  length {data['response_length/mean']:.0f}"
        if console.is_terminal:
            self.bars.update(self.task, completed=self.step, figures=self.figures, left=self.left)
        elif self.step and time.monotonic() - self.printed > LINE_SECONDS:
            self._print_line()

    def pass_over(self, run: PlannedRun, why: str) -> None:
        """Say that a run is not executed after all."""
        self.number += 1
        self.note(f"[{self.number}/{self.total}] {self.labels[run.name]}: {why}")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        console.print(text)

    def end(self) -> None:
        """Close the run's bar."""
        self.left = ""
        if console.is_terminal:
            self.bars.update(self.task, completed=self.step, left=self.left)
            self.bars.stop_task(self.task)
        else:
            self._print_line()

    def _print_line(self) -> None:
        self.printed = time.monotonic()
        console.print(f"{self.label}: step {self.step}/{self.run.steps}  {self.figures}  {self.left}".rstrip())

    def _seconds_left(self, seconds_per_step: float) -> timedelta:
        """Return how long the other steps will take at the pace since the first one that was seen, that one's at it."""
        now = time.monotonic()
        first, since = self.first = self.first or (self.step, now)
        pace = (now - since) / (self.step - first) if self.step > first else seconds_per_step
        return timedelta(seconds=round(pace * (self.run.steps - self.step)))

    def _new_rows(self) -> list[dict[str, Any]]:
        attempts = self.run.run.attempts()
        if len(attempts) <= self.attempts_before:
            return []
        try:
            with open(attempts[-1].metrics, "rb") as file:
                file.seek(self.offset)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.strip()]


def print_summary(runs: Sequence[PlannedRun]) -> None:
    """Print where each run got to: first and last validation accuracy, reward, response length, time."""
    table = Table(title="where the runs are", title_justify="left")
    for column in ("run", "state", "step", "accuracy T=1", "greedy", "reward", "length", "format", "s/step", "minutes"):
        table.add_column(column, overflow="fold")
    for label, run in zip(labels(runs), runs, strict=True):
        table.add_row(label, *_summary_row(run))
    console.print(table)
    for run in runs:
        failed = next((event for event in reversed(run.run.events()) if event["event"] == "failed"), None)
        if run.run.state() == "failed" and failed:
            console.print(f"{run.name} failed: {failed['kind']}: {failed['cause']}\n  do: {failed['remedy']}")
            if log := failed_log(run.run):
                console.print(f"  log: {log}")


def failed_log(run: RunDir) -> Path | None:
    """Return the log of the attempt that a run's last failure is about; None if that died before it had one."""
    number = failed = None
    for event in run.events():
        if event["event"] == "started":
            number = event["attempt"]
        elif event["event"] in TERMINAL:
            failed, number = number, None
    log = run.path / "attempts" / str(failed) / "log"
    return log if log.is_file() else None


def _summary_row(run: PlannedRun) -> list[str]:
    rows = [row for attempt in run.run.attempts() for row in read_jsonl(attempt.metrics)[0]]
    trained = [row["data"] for row in rows if "training/global_step" in row["data"]]
    task = run.config["task"]["name"]

    def ends(key: str) -> str:
        values = [row["data"][key] for row in rows if key in row["data"]]
        return f"{values[0]:.3f} -> {values[-1]:.3f}" if values else "-"

    def trained_ends(key: str, form: str = ".3f") -> str:
        values = [data[key] for data in trained if key in data]
        return f"{values[0]:{form}} -> {values[-1]:{form}}" if values else "-"

    times = sorted(data["perf/time_per_step"] for data in trained if "perf/time_per_step" in data)
    return [
        run.run.state(),
        f"{run.run.last_step()}/{run.steps}",
        ends(f"val-core/{task}/acc/mean@1"),
        ends(f"val-core/{task}_greedy/acc/mean@1"),
        trained_ends("critic/score/mean"),
        trained_ends("response_length/mean", ".0f"),
        trained_ends("reward/format/mean", ".2f"),
        f"{times[len(times) // 2]:.2f}" if times else "-",
        f"{active_seconds(run.run) / 60:.1f}",
    ]


def active_seconds(run: RunDir) -> float:
    """Return how long the run's attempts took together, by its events."""
    total, since = 0.0, None
    for event in run.events():
        if event["event"] == "started":
            since = event["time"]
        elif since is not None and event["event"] in ("finished", "failed", "interrupted", "cancelled"):
            total, since = total + event["time"] - since, None
    return total
