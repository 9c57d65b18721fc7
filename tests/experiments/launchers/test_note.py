"""A launch leaves a note of the runs that it asked for together, also of those that are done already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiments.launchers.base import PlannedLauncher
from experiments.planning.plan import PlannedRun
from experiments.store.launch_log import Launch, read_launches
from experiments.store.rundir import RunDir

ROOT = Path(__file__).parents[3]


class Noting(PlannedLauncher):
    def start(self, runs: Any) -> int:
        return 0


def test_the_runs_of_a_command_are_noted_with_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--multirun", "rollout.n=3,5"])
    names = ("a/n=3,seed=1-00000003", "a/baseline,seed=1-00000005", "b/n=3,seed=1-00000003")
    runs = [cast(PlannedRun, SimpleNamespace(folder=RunDir(tmp_path / name))) for name in names]
    Noting().note(runs)
    assert read_launches(tmp_path / "a") == [Launch(("00000003", "00000005"), ("rollout.n=3,5",))]
    assert read_launches(tmp_path / "b") == [Launch(("00000003",), ("rollout.n=3,5",))]


def test_a_plan_notes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.run", "-m", "rollout.n=3,5", "show=plan", f"runs_dir={tmp_path}/runs"]
    subprocess.run([*command, f"data_dir={tmp_path}/data"], cwd=ROOT, check=True, capture_output=True)
    assert read_launches(tmp_path / "runs") == []
