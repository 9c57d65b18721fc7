"""A launch whose run loses a process in the middle goes on by itself."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil

from experiments.store.rundir import find_runs
from tests.e2e.parts import parts
from tests.e2e.training import arguments, clean_environment, left_behind, rows

STEPS = 8


def test_a_run_that_lost_a_process_is_tried_again(tmp_path: Path) -> None:
    lean = ("trainer.val_before_train=false", "trainer.test_freq=-1", "tracking=none")
    launcher = subprocess.Popen(
        arguments(tmp_path, [*lean, f"trainer.total_training_steps={STEPS}"]),
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not any(run.checkpoint_step() >= 2 for run in find_runs(tmp_path / "runs")):
        assert launcher.poll() is None and time.monotonic() < deadline, launcher.communicate()[0]
        time.sleep(0.1)
    next(process for kind, process in parts(psutil.Process(launcher.pid)) if kind == "WorkerDict").kill()
    output, _ = launcher.communicate(timeout=400)
    assert launcher.returncode == 0, output
    (run,) = find_runs(tmp_path / "runs")
    assert run.state() == "finished" and sorted(rows(run)) == list(range(1, STEPS + 1))
    (retried,) = [event for event in run.events() if event["event"] == "retried"]
    assert retried["number"] == 1 and retried["step"] >= 2 and "WorkerDict" in retried["cause"]
    assert output.count("tried again (1 of 2) from step") == 1 and "tried again 1 time: killed: the actor" in output
    assert left_behind(run, [launcher.pid]) == []
