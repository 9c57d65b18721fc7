"""show=verl prints a command of veRL's own entry that trains what the run trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.project import PROJECT_DIR
from experiments.store.files import read_jsonl
from tests.e2e.training import arguments, clean_environment, numbers, rows, train

STEPS = 3  # that veRL's number of epochs does not end it before, tests/experiments/config/test_compose.py shows
SHORT = (
    *("task.train_size=16", f"trainer.total_training_steps={STEPS}", "data.max_response_length=8", "tracking=none"),
    *("trainer.val_before_train=false", f"trainer.test_freq={STEPS}", f"trainer.save_freq={STEPS}"),
)


def test_the_printed_command_trains_the_same_run(folder: Path) -> None:
    ours = train(folder / "printed", *SHORT)
    assert ours.code == 0, ours.output
    asked = [*arguments(folder / "printed", SHORT), "show=verl"]
    shown = subprocess.run(asked, capture_output=True, text=True, env=clean_environment(), check=True)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    metrics = elsewhere / "metrics.jsonl"
    done = subprocess.run(
        ["bash", "-c", shown.stdout],
        cwd=elsewhere,
        env={
            **clean_environment(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # it says python
            "PYTHONPATH": str(PROJECT_DIR),
            "VERL_FILE_LOGGER_PATH": str(metrics),
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    plain = {int(row["step"]): row["data"] for row in read_jsonl(metrics)[0]}
    recorded = rows(ours.run)
    assert sorted(plain) == sorted(recorded) == list(range(1, STEPS + 1))
    for step, row in recorded.items():
        assert numbers(plain[step]) == pytest.approx(numbers(row), rel=1e-4, abs=1e-5), step
    events = [event["event"] for event in ours.run.events()]
    assert events.count("checkpoint") == 1, "veRL's own command writes nothing into the run's folder"
    assert os.listdir(elsewhere / "checkpoints"), "but into veRL's default folder"
