"""The progress of the runs that a launch executes: live rows on a terminal, else a line now and then.

It reads the runs' folders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from experiments.planning.plan import PlannedRun
from experiments.store.events import Event
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
    """The rows of the runs in progress and a row for all of them, or lines if the output is not a terminal."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.total = len(runs)
        self.numbers: dict[str, int] = {}
        self.over: set[str] = set()
        self.labels = dict(zip((run.name for run in runs), labels(runs), strict=True))
        self.left = {run.name: run.steps - run.reached for run in runs}
        self.rows: list[Row] = []
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
        )
        self.whole: TaskID | None = None
        self.since, self.printed, self.last_line = time.monotonic(), time.monotonic(), ""
        self.steps_before = sum(self.left.values())

    def __enter__(self) -> Progress:
        if console.is_terminal:
            self.bars.start()
            if self.total > 1:
                self.whole = self.bars.add_task("all", total=self.steps_before, count="", figures="", left="")
        return self

    def __exit__(self, *exception: Any) -> None:
        if console.is_terminal:
            self.bars.stop()

    def row(self, run: PlannedRun) -> Row:
        """Return the row of a run whose turn it is."""
        number = self.numbers.setdefault(run.name, len(self.numbers) + 1)  # one that is tried again keeps its own
        self.over.discard(run.name)
        return Row(self, run.name, f"[{number}/{self.total}] {self.labels[run.name]}")

    @property
    def done(self) -> int:
        """How many runs have had their turn."""
        return len(self.over)

    def update(self) -> None:
        """Show how far all runs are: the row of all on a terminal, else a line if there is news to tell."""
        if console.is_terminal:
            if self.whole is not None:
                completed = self.steps_before - sum(self.left.values())
                count, left = f"{self.done} of {self.total} runs", self.eta()
                self.bars.update(self.whole, completed=completed, count=count, left=left)
        elif time.monotonic() - self.printed > LINE_SECONDS and any(row.step > row.run.reached for row in self.rows):
            self.printed = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        """Print a line for all runs under way, unless the line before said the same."""
        if len(self.rows) == 1:
            line = self.rows[0].line()
        else:
            steps = ", ".join(f"{row.label} {row.step}/{row.run.steps}" for row in self.rows)
            line = f"{steps}; {self.done} of {self.total} runs are done"
        if line != self.last_line:
            self.last_line = line
            eta = self.eta() if len(self.rows) > 1 else self.rows[0].left
            self.note(f"{line}  {eta}".rstrip())

    def eta(self) -> str:
        """Return when all runs will have ended at the pace so far: "ETA 0:05:10"; "" while no step is done."""
        left = sum(self.left.values())
        done = self.steps_before - left
        if not done or not left:
            return ""
        return f"ETA {timedelta(seconds=round((time.monotonic() - self.since) * left / done))}"

    def note(self, text: str) -> None:
        """Print a line above the rows; it is not wrapped, so that a name or a path in it can be copied."""
        console.print(printable(text), soft_wrap=True)


class Row:
    """The progress of one run."""

    def __init__(self, progress: Progress, name: str, label: str) -> None:
        self.progress, self.name, self.label = progress, name, label
        self.task: TaskID | None = None
        self.left = ""

    def begin(self, run: PlannedRun) -> None:
        """Show the run."""
        self.run, self.step, self.figures = run, run.reached, "starting"
        self.attempts_before, self.offset = len(run.folder.attempts()), 0
        self.first: tuple[int, float] | None = None
        self.events = len(run.folder.events())
        self.progress.rows.append(self)
        if console.is_terminal:
            self.task = self.progress.bars.add_task(
                self.label, total=run.steps, completed=self.step, count=self._count(), figures=self.figures, left=""
            )
        else:
            self.note(f"{self.label}: starting, to step {run.steps}")

    def update(self) -> None:
        """Read what the attempt has written since the last call, and show it."""
        for row in self._new_rows():
            self._print_warnings()
            data = row["data"]
            if "training/global_step" in data:
                self.step = int(row["step"])
                self.left = f"ETA {self._seconds_left(data.get('perf/time_per_step', 0.0))}"
                self.figures = f"reward {data['critic/score/mean']:.3f}  length {data['response_length/mean']:.0f}"
        self.progress.left[self.run.name] = self.run.steps - self.step
        if self.task is not None:
            self.progress.bars.update(
                self.task, completed=self.step, count=self._count(), figures=self.figures, left=self.left
            )

    def _count(self) -> str:
        return f"step {self.step}/{self.run.steps}"

    def _print_warnings(self) -> None:
        events = self.run.folder.events()
        for event in events[self.events :]:
            if event["event"] == Event.WARNED:
                self.note(f"{self.run.name}: warning: step {event.get('step')}: {event.get('text')}")
        self.events = len(events)

    def pass_over(self, why: str) -> None:
        """Print that the run is not executed after all, and why."""
        self.progress.over.add(self.name)
        self.note(f"{self.label}: {why}")

    def note(self, text: str) -> None:
        """Print a line above the rows."""
        self.progress.note(text)

    def end(self) -> None:
        """Take the run's row away, and print how far it got."""
        self.left = ""
        self.progress.over.add(self.name)
        self.progress.rows.remove(self)
        self.progress.left[self.run.name] = 0
        if self.task is not None:
            self.progress.bars.remove_task(self.task)
        if self.line() != self.progress.last_line:
            self.note(self.line())

    def line(self) -> str:
        """Return the row as a line, without the time left."""
        return f"{self.label}: {self._count()}  {self.figures}"

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
