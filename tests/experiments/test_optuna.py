"""Hydra's own optimising sweeper drives the same launchers: a study maximises the final validation accuracy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from experiments.compose import PROJECT_DIR
from tests.e2e.training import clean_environment

# The study's process, and in it trainings that leave what a training leaves: the cooler, the better.
STUDY = """
import json, sys
from experiments.launchers import local
from experiments.plan import freeze
from experiments.run import main

def train(runs):
    for run in runs:
        freeze(run)
        run.run.record("started", attempt=1, steps=run.steps)
        accuracy = 1 - run.config["rollout"]["temperature"] / 2
        row = {"step": run.steps, "data": {"val-core/countdown/acc/mean@1": accuracy}}
        run.run.new_attempt().metrics.write_text(json.dumps(row) + "\\n")
        run.run.record("finished", step=run.steps)
    return 0

local.run_all = train
sys.exit(main())
"""


def test_a_study_of_three_trials_finds_the_best_temperature(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", STUDY, "-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random"),
            *("hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"),
            *("hydra.sweeper.sampler.seed=1", "experiment=smoke", "rollout.temperature=interval(0.5,1.5)"),
        ],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {
        yaml.safe_load((folder / "config.yaml").read_text())["rollout"]["temperature"]: folder
        for folder in (tmp_path / "runs").glob("*,seed=1-*")
    }
    assert len(runs) == 3 and all(0.5 <= temperature <= 1.5 for temperature in runs)
    (results,) = tmp_path.rglob("optimization_results.yaml")
    found = yaml.safe_load(results.read_text())
    assert found["best_params"] == {"rollout.temperature": min(runs)}
    events = json.loads((runs[min(runs)] / "attempts" / "1" / "metrics.jsonl").read_text())
    assert found["best_value"] == events["data"]["val-core/countdown/acc/mean@1"] == 1 - min(runs) / 2
