"""The progress of the run that a launch executes: a bar on a terminal, else a line now and then.

It reads the run's folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from experiments.planning.plan import PlannedRun
from experiments.terminal import console, printable

LINE_SECONDS = 20.0  # how often a line is printed without a terminal


def labels(runs: Sequence[PlannedRun]) -> list[str]:
    """Return, for each run, the parts of its name that not all runs share; the whole name if all parts are shared.

    Runs that no part tells apart also have their id: a folder keeps the name by which its run was first asked for.
    """
    parts = [run.name.rsplit("-", 1)[0].split(",") for run in runs]
    varying = [[part for part in own if not all(part in other for other in parts)] for own in parts]
    short = [",".join(some or own) for some, own in zip(varying, parts, strict=True)]
    return [
        text if short.count(text) == 1 else f"{text}-{run.folder.id}" for text, run in zip(short, runs, strict=True)
    ]


class Progress:
    """A bar for the run in progress, or lines if the output is not a terminal."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.total, self.number = len(runs), 0
        self.labels = dict(zip((run.name for run in runs), labels(runs), strict=True))
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
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
        self.attempts_before = len(run.folder.attempts())
        self.offset, self.step, self.figures = 0, run.reached, "starting"
        self.first: tuple[int, float] | None = None
        self.left, self.printed, self.printed_step = "", time.monotonic(), self.step
        label = f"[{self.number}/{self.total}] {self.labels[run.name]}"
        if console.is_terminal:
            self.task = self.bars.add_task(label, total=run.steps, completed=self.step, figures=self.figures, left="")
        else:
            self.note(f"{label}: starting, to step {run.steps}")
        self.label = label

    def update(self) -> None:
        """Read what the attempt has written since the last call, and show it."""
        for row in self._new_rows():
            data = row["data"]
            if "training/global_step" in data:
                self.step = int(row["step"])
                self.left = f"ETA {self._seconds_left(data.get('perf/time_per_step', 0.0))}"
                self.figures = f"reward {data['critic/score/mean']:.3f}  length {data['response_length/mean']:.0f}"
        if console.is_terminal:
            self.bars.update(self.task, completed=self.step, figures=self.figures, left=self.left)
        elif time.monotonic() - self.printed > LINE_SECONDS:
            self._print_line()

    def pass_over(self, run: PlannedRun, why: str) -> None:
        """Print that a run is not executed after all, and why."""
        self.number += 1
        self.note(f"[{self.number}/{self.total}] {self.labels[run.name]}: {why}")

    def note(self, text: str) -> None:
        """Print a line above the bar; it is not wrapped, so that a name or a path in it can be copied."""
        console.print(printable(text), soft_wrap=True)

    def end(self) -> None:
        """Close the run's bar."""
        self.left = ""
        if console.is_terminal:
            self.bars.update(self.task, completed=self.step, left=self.left)
            self.bars.stop_task(self.task)
        else:
            self._print_line()

    def _print_line(self) -> None:
        """Print how far the run is, if it is further than in the last line."""
        if self.step == self.printed_step:
            return
        self.printed, self.printed_step = time.monotonic(), self.step
        self.note(f"{self.label}: step {self.step}/{self.run.steps}  {self.figures}  {self.left}".rstrip())

    def _seconds_left(self, seconds_per_step: float) -> timedelta:
        """Return how long the remaining steps will take.

        The pace is the mean since the first step that was seen; at that first step it is `seconds_per_step`.
        """
        now = time.monotonic()
        first, since = self.first = self.first or (self.step, now)
        pace = (now - since) / (self.step - first) if self.step > first else seconds_per_step
        return timedelta(seconds=round(pace * (self.run.steps - self.step)))

    def _new_rows(self) -> list[dict[str, Any]]:
        """Return the whole rows that the new attempt has added to its metrics since the last call."""
        attempts = self.run.folder.attempts()
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
