"""A local launch trains with the code that was there when it was launched; shown with real trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.store.files import read_jsonl
from experiments.store.rundir import find_runs
from tests.e2e.training import VERSIONS, Command, ended, start_edited


def test_a_second_run_that_waits_for_its_turn_is_scored_as_launched(folder: Path) -> None:
    validated_never = ("trainer.val_before_train=false", "trainer.test_freq=-1", "tracking=none")
    command = start_edited(folder / "frozen", "seed=1,2", "trainer.total_training_steps=1", *validated_never)
    scored_as_launched(ended(command, folder / "frozen"), 2)


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_score_that_is_edited_after_the_launch_is_not_what_scores(own: Callable[[str], Command], fast: str) -> None:
    """On the plain path, the score is edited before any process has imported it."""
    scored_as_launched(own(fast), 1)


def scored_as_launched(done: Command, count: int) -> None:
    runs = find_runs(done.runs_dir)
    assert len(runs) == count
    for run in runs:
        samples, _ = read_jsonl(run.attempts()[0].rollouts / "1.jsonl")
        scored = [(sample["version"], sample["copied"]) for sample in samples if sample["format"]]
        assert set(scored) == {(VERSIONS[0], 1.0)}
