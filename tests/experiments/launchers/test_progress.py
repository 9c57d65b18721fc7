"""launchers/progress.py and launchers/summary.py: what a launch prints about runs. The tests fill the runs' folders."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from experiments.launchers import progress as progress_module
from experiments.launchers import summary
from experiments.launchers.summary import print_figures, print_summary
from experiments.planning.plan import PlannedRun
from experiments.store.rundir import RunDir

Show = Callable[[bool], io.StringIO]


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    """A run that goes on from step 3 to step 10, with a name like a planned run's."""
    run = RunDir(tmp_path / "temperature=0.6,seed=1-00000001")
    config = {"task": {"name": "countdown"}}
    run.create("task: {name: countdown}\n", {})
    return PlannedRun(run.path.name, run, config, OmegaConf.create(config), 10, "failed", 3)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Print into a text that the test can read, as to a terminal or as to a file."""

    def console(terminal: bool) -> io.StringIO:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=150)
        monkeypatch.setattr(progress_module, "console", console)
        monkeypatch.setattr(summary, "console", console)
        return screen

    return console


class Clock:
    """A clock that the test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


def step(run: PlannedRun, number: int, text: str = "\n") -> None:
    data = {
        "training/global_step": number,
        "critic/score/mean": number / 100,
        "response_length/mean": 50 + number,
        "perf/time_per_step": 6.0,
    }
    with open(run.folder.attempts()[-1].metrics, "a") as metrics:
        metrics.write(json.dumps({"step": number, "data": data}) + text)


def test_a_bar_shows_step_reward_length_and_when_it_will_be_done(
    run: PlannedRun, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    screen = show(True)

    def seen() -> str:
        row.update()
        progress.update()
        progress.bars.refresh()
        return screen.getvalue().splitlines()[-1]

    with progress_module.Progress([run]) as progress:
        row = progress.row(run)
        row.begin(run)
        assert "step 3/10" in seen() and "starting" in seen() and "ETA" not in seen()
        run.folder.new_attempt()
        clock.now += 60  # the time to start up does not count for the pace
        step(run, 4)
        line = seen()
        assert "step 4/10" in line and "reward 0.040" in line and "length 54" in line
        assert "ETA 0:00:36" in line, "six steps more, as long as the one that was made"
        clock.now += 10
        step(run, 5, text="")
        assert "step 4/10" in seen(), "a row that is being written is none yet"
        with open(run.folder.attempts()[-1].metrics, "a") as metrics:
            metrics.write("\n")
        assert "step 5/10" in seen() and "ETA 0:00:50" in seen(), "five more at ten seconds each"
        row.end()
    assert "ETA" not in screen.getvalue().splitlines()[-1]


def test_without_a_terminal_there_are_lines_with_the_same(
    run: PlannedRun, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    screen = show(False)
    with progress_module.Progress([run]) as progress:
        row = progress.row(run)
        row.begin(run)
        run.folder.new_attempt()
        for number in (4, 5, 6):
            step(run, number)
            row.update()
            progress.update()
            clock.now += progress_module.LINE_SECONDS / 2 + 1
        for number in (7, 8, 9, 10):
            step(run, number)
        row.update()
        progress.update()
        row.end()
    assert screen.getvalue().splitlines() == [
        "[1/1] temperature=0.6,seed=1: starting, to step 10",
        "[1/1] temperature=0.6,seed=1: step 6/10  reward 0.060  length 56  ETA 0:00:44",
        "[1/1] temperature=0.6,seed=1: step 10/10  reward 0.100  length 60",
    ]


@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_names_its_log_if_it_has_one(run: PlannedRun, show: Show, begun: bool) -> None:
    """An attempt that could not begin has no log. The log of the attempt before it would mislead."""
    screen = show(False)
    log = run.folder.new_attempt().log
    log.write_text("a log\n")
    run.folder.record("started", attempt=1)
    if not begun:
        run.folder.record("interrupted", attempt=1)
        run.folder.new_attempt()
    run.folder.record("failed", kind="disk full", cause="no room", remedy="make room")
    print_summary([run])
    text = screen.getvalue()
    assert "failed: disk full: no room\n  do: make room\n" in text
    assert (f"log: {log}" in text) == begun and ("log:" in text) == begun


def test_a_cause_is_printed_as_it_is(run: PlannedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes [...] and :word: for instructions, a terminal escape sequences; a wrapped line can't be copied."""
    cause = f"[/tmp/a] or [b] is on :fire: \x1b[2J{'.' * 100}"
    run.folder.record("failed", kind="reward error", cause=cause, remedy="fix [it]")
    with progress_module.Progress([run]) as progress:
        progress.note(f"{run.name}: {cause}")
    print_summary([run])
    told = cause.replace("\x1b", "?")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run.name}: {told}"
    assert lines[-2:] == [f"{run.name} failed: reward error: {told}", "  do: fix [it]"]


def test_a_line_is_printed_once_a_step(run: PlannedRun, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    screen = show(False)
    with progress_module.Progress([run]) as progress:
        row = progress.row(run)
        row.begin(run)
        run.folder.new_attempt()
        for _ in range(3):  # a slow step
            clock.now += 30
            row.update()
            progress.update()
        step(run, 4)
        for _ in range(3):
            clock.now += 30
            row.update()
            progress.update()
        row.end()
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2 and "starting, to step 10" in lines[0] and "step 4/10  reward 0.040" in lines[1]


def test_what_to_type_for_the_figures_is_said(run: PlannedRun, show: Show, tmp_path: Path) -> None:
    screen = show(False)
    print_figures([run])
    assert screen.getvalue() == "", "there is nothing to draw"
    run.folder.record("finished", step=10)
    print_figures([run])
    assert screen.getvalue() == f"for the figures: python -m analysis.plot_ablation --runs {tmp_path}\n"


def test_of_two_runs_at_once_one_line_tells_both_and_each_end_is_told(
    run: PlannedRun, show: Show, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Clock(monkeypatch)
    screen = show(False)
    other = RunDir(tmp_path / "temperature=1.2,seed=1-00000002")
    other.create("task: {name: countdown}\n", {})
    second = PlannedRun(other.path.name, other, run.config, run.verl, 10, run.state, 3)
    with progress_module.Progress([run, second]) as progress:
        rows = [progress.row(one) for one in (run, second)]
        for row, one in zip(rows, (run, second), strict=True):
            row.begin(one)
            one.folder.new_attempt()
            step(one, 5)
            row.update()
        clock.now += 30
        progress.update()
        progress.update()
        step(run, 10)
        rows[0].update()
        rows[0].end()
        clock.now += 30
        progress.update()
    lines = screen.getvalue().splitlines()
    assert lines[2:4] == [
        "[1/2] temperature=0.6 5/10, [2/2] temperature=1.2 5/10; 0 of 2 runs are done  ETA 0:01:15",
        "[1/2] temperature=0.6: step 10/10  reward 0.100  length 60",
    ]
    assert lines[4] == "[2/2] temperature=1.2: step 5/10  reward 0.050  length 55  ETA 0:00:30" and len(lines) == 5


def test_a_run_that_is_tried_again_keeps_its_number_and_counts_once(run: PlannedRun, show: Show) -> None:
    show(False)
    with progress_module.Progress([run]) as progress:
        for _ in range(2):
            row = progress.row(run)
            assert row.label.startswith("[1/1] ") and progress.done == 0
            row.begin(run)
            row.end()
            assert progress.done == 1
