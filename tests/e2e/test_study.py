"""Hydra's own optimising sweeper drives real trainings: a study maximises the final validation accuracy."""

from __future__ import annotations

from pathlib import Path

import yaml

from experiments.store.metrics import final_accuracy
from experiments.store.rundir import find_runs
from tests.e2e.training import train

STUDY = (
    *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"),
    *("hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"),
    # The temperatures are far apart, so that the accuracies are, too: a hot model hardly ever answers.
    "rollout.temperature=interval(0.5,1.5)",
    "actor_rollout_ref.rollout.val_kwargs.temperature=${rollout.temperature}",
)
SMALLEST = ("tracking=none", "trainer.total_training_steps=1", "trainer.val_before_train=false", "task.test_size=64")


def test_a_study_of_two_trials_finds_the_better_of_its_temperatures(folder: Path) -> None:
    done = train(folder / "study", *STUDY, *SMALLEST)
    assert done.code == 0, done.output
    runs = find_runs(done.runs_dir)
    assert [run.state() for run in runs] == ["finished"] * 2
    found = {run.load_config()["rollout"]["temperature"]: final_accuracy(run) for run in runs}
    assert len(found) == 2 and all(0.5 <= temperature <= 1.5 for temperature in found)
    best = max(value for value in found.values() if value is not None)
    (results,) = done.runs_dir.rglob("optimization_results.yaml")
    said = yaml.safe_load(results.read_text())
    assert said["best_value"] == best > 0
    assert found[said["best_params"]["rollout.temperature"]] == best
    assert len(set(found.values())) > 1, "else any trial were the best"
