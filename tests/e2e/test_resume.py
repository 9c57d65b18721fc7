"""A run that starts from another run's checkpoint, and one whose newest checkpoint somebody deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.config.verl import override
from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir
from tests.e2e.training import Command, numbers, rows, train


def resumed(run: RunDir) -> list[dict]:
    keys = ("attempt", "step", "path")
    return [{key: event[key] for key in keys if key in event} for event in run.events() if event["event"] == "resumed"]


def trained(run: RunDir) -> list[list[int]]:
    """Return the steps that each attempt trained."""
    found = [read_jsonl(attempt.metrics)[0] for attempt in run.attempts()]
    return [[row["step"] for row in rows if "training/global_step" in row["data"]] for rows in found]


def test_what_is_resumed_is_what_the_event_says(straight: Command, folder: Path) -> None:
    """The run starts from the outside checkpoint once, and later goes on from its own."""
    outside = straight.run.checkpoints / "global_step_3"
    path = override("trainer.resume_from_path", str(outside))
    start = ("trainer.resume_mode=resume_path", path, "tracking=none")
    place = folder / "from outside"
    first = train(place, *start, "trainer.total_training_steps=4")
    assert first.code == 0, first.output
    assert resumed(first.run) == [{"attempt": 1, "step": 3, "path": str(outside)}]
    # It has the weights, the optimiser, the data's order and the seed of the other run: so the same step follows.
    assert numbers(rows(first.run)[4]) == pytest.approx(numbers(rows(straight.run)[4]), rel=1e-4, abs=1e-5)
    second = train(place, *start, "trainer.total_training_steps=5")
    assert second.code == 0 and "1 to extend" in second.output, second.output
    assert resumed(second.run)[1:] == [{"attempt": 2, "step": 4}]
    assert trained(second.run) == [[4], [5]]


def test_the_checkpoint_before_a_deleted_one_is_resumed(straight: Command, folder: Path) -> None:
    place = folder / "deleted"
    shutil.copytree(straight.run.path, place / "runs" / straight.run.path.name)
    run = RunDir(place / "runs" / straight.run.path.name)
    shutil.rmtree(run.checkpoints / "global_step_4")
    done = train(place, "trainer.total_training_steps=5", "tracking=none")
    assert done.code == 0, done.output
    assert "extend from step 3" in done.output, done.output
    assert resumed(run) == [{"attempt": 2, "step": 3}] and trained(run)[1] == [4, 5]
