"""A few kills of a real training; `python -m tests.e2e.kills 30` makes more."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir, find_runs
from tests.e2e.kills import Killer
from tests.e2e.training import Command, arguments, clean_environment, numbers, rows, train

LONG_VALIDATION = (
    *("task.test_size=200", "tracking=none", "trainer.total_training_steps=3"),
    "hydra.launcher.retries=0",
)


def test_what_was_killed_is_resumed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    killer = Killer(tmp_path, seed=0)
    killer.run(3)
    assert killer.kills == 3


def test_a_kill_between_a_checkpoint_and_its_steps_row_loses_no_row(straight: Command, tmp_path: Path) -> None:
    """veRL saves, validates, and only then writes the step's row. A resumed run does not train the step again."""
    launcher = subprocess.Popen(
        arguments(tmp_path, LONG_VALIDATION),
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = until_saved(tmp_path, 2)
    os.kill(started(run), signal.SIGKILL)
    launcher.wait(90)
    assert trained(run) == [1] and run.checkpoint_step() == 2, "it was killed in between"
    done = train(tmp_path, *LONG_VALIDATION)
    assert done.code == 0, done.output
    assert trained(run) == [1, 2, 3], "every step once"
    for step in (1, 2, 3):
        got, expected = numbers(rows(run)[step]), numbers(rows(straight.run)[step])
        same = {key for key in expected if not key.startswith("val-")}
        assert {key: got[key] for key in same} == pytest.approx(
            {key: expected[key] for key in same}, rel=1e-4, abs=1e-5
        )


def until_saved(folder: Path, step: int) -> RunDir:
    """Return the only run as soon as the step's checkpoint is complete."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for run in find_runs(folder / "runs"):
            if any(event["event"] == "checkpoint" and event["step"] == step for event in run.events()):
                return run
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not saved")


def started(run: RunDir) -> int:
    """Return the process id of the run's last attempt."""
    return next(event["pid"] for event in reversed(run.events()) if event["event"] == "started")


def trained(run: RunDir) -> list[int]:
    """Return the step of every training row that any attempt has written."""
    found = [row for attempt in run.attempts() for row in read_jsonl(attempt.metrics)[0]]
    return [row["step"] for row in found if "training/global_step" in row["data"]]
