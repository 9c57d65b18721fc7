"""A local launch trains with the code that was there when it was launched; shown with real trainings."""

from __future__ import annotations

from pathlib import Path

from experiments.store.rundir import find_runs
from tests.e2e.training import Command, rows, train_edited


def test_a_reward_that_is_edited_after_the_launch_is_not_what_scores(folder: Path) -> None:
    """On the fast path, with a second run that waits for its turn."""
    validated_never = ("trainer.val_before_train=false", "trainer.test_freq=-1", "tracking=none")
    done = train_edited(folder / "frozen", "seed=1,2", "trainer.total_training_steps=1", *validated_never)
    scored_as_launched(done, 2)


def test_on_the_plain_path_too(plain_annealed: Command) -> None:
    """On the plain path, the reward is edited before any process has imported it."""
    scored_as_launched(plain_annealed, 1)


def scored_as_launched(done: Command, count: int) -> None:
    runs = find_runs(done.runs_dir)
    assert len(runs) == count
    for run in runs:
        assert [rows(run)[1][f"reward/{part}/mean"] for part in ("version", "copied")] == [0.25, 1.0]
