"""Make runs' folders as attempts leave them, and call the command `python -m experiments.runs` on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.runs.__main__ import main
from experiments.store.rundir import RunDir

CONFIG = (
    "seed: {seed}\nrollout:\n  temperature: {temperature}\n  n: 5\nkl: null\ntrainer:\n  total_training_steps: 40\n"
)


@dataclass
class Folder:
    """A runs folder, and the command over it."""

    path: Path
    capture: pytest.CaptureFixture[str]

    def make(self, name: str, *events: str | tuple[str, dict[str, Any]], temperature: float = 1.0, seed: int = 1):
        """Make a run with these events, each a word or (word, fields)."""
        run = RunDir(self.path / name)
        run.create(CONFIG.format(temperature=temperature, seed=seed), {"commit": "abc", "diff": ""})
        for event in events:
            word, fields = (event, {}) if isinstance(event, str) else event
            run.record(word, **fields)
        return run

    def train(self, run: RunDir, steps: range, seconds: float = 36.0, validate: int = 10) -> None:
        """Add an attempt that trained these steps in `seconds` each; the accuracy at a step is step / 1000."""
        rows = []
        for step in steps:
            data = {"training/global_step": step, "response_length/mean": 50.0 + step, "perf/time_per_step": seconds}
            if step % validate == 0:
                data |= {"val-core/countdown_greedy/acc/mean@1": 0.9, "val-core/countdown/acc/mean@1": step / 1000}
            rows.append(json.dumps({"step": step, "data": data}) + "\n")
        run.new_attempt().metrics.write_text("".join(rows))

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Return (exit code, what was printed, the errors) of `python -m experiments.runs`."""
        self.capture.readouterr()
        code = main(["--runs-dir", str(self.path), *arguments])
        return code, *self.capture.readouterr()

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        """Return the runs of `list --json`."""
        code, printed, errors = self.command("list", "--json", *filters)
        assert code == 0, errors
        return json.loads(printed)["runs"]

    def names(self, *filters: str) -> list[str]:
        return [run["name"] for run in self.listed(*filters)]


Make = Callable[..., RunDir]


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path / "runs", capsys)
