"""`make study` in a toy size: real trainings, then the figures at equal steps, tokens, hours and samples."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from experiments.store.rundir import find_runs
from tests.e2e.training import clean_environment

ROOT = Path(__file__).parents[2]


def make_study(folder: Path) -> None:
    settings = f"experiment=smoke tracking=none data_dir={folder.parent / 'data'}"
    sizes = ("SWEEPS=algorithm", "SEEDS=1", "STEPS=1", f"STUDY={folder}", f"SETTINGS={settings}")
    done = subprocess.run(
        ["make", "study", f"VENV={Path(sys.prefix)}", *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_study_is_run_and_drawn(tmp_path: Path) -> None:
    study = tmp_path / "study"  # make takes no blanks in a path
    make_study(study)
    runs = find_runs(study / "runs")
    assert sorted(run.load_config()["algorithm"]["adv_estimator"] for run in runs) == ["gae", "grpo"]
    assert [run.state() for run in runs] == ["finished"] * 2
    for axis in ("step", "tokens", "gpu_hours", "samples"):
        with open(study / "figures" / axis / "algorithm-arms.csv", newline="") as file:
            arms = {row["arm"] for row in csv.DictReader(file) if row["quantity"] == "final"}
        assert arms == {"algorithm=GRPO", "algorithm=PPO"}
    assert "equal tokens" in (study / "figures" / "tokens" / "algorithm.md").read_text()
    assert "GRPO against PPO" in (study / "report.html").read_text()
