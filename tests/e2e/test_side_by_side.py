"""Two real trainings at once on this machine: each computes what it would compute alone, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.store.rundir import RunDir, find_runs
from tests.e2e.training import left_behind, numbers, rows, train

LEAN = ("hardware.threads=1", "tracking=none", "trainer.total_training_steps=3", "trainer.test_freq=3")


def span(run: RunDir) -> tuple[float, float]:
    times = [event["time"] for event in run.events() if event["event"] in ("started", "finished")]
    return times[0], times[-1]


def test_an_arm_s_numbers_do_not_depend_on_its_neighbour(folder: Path) -> None:
    both = train(folder / "both", *LEAN, "rollout.temperature=0.6,1.2", "hydra.launcher.jobs=2")
    assert both.code == 0, both.output
    assert "on this machine: 2 at once, about " in both.output
    runs = {run.path.name.split(",")[1]: run for run in find_runs(both.runs_dir)}
    first, second = (span(run) for run in runs.values())
    assert max(first[0], second[0]) < min(first[1], second[1]), "they were under way at the same time"
    alone = train(folder / "alone", *LEAN, "rollout.temperature=0.6")
    assert alone.code == 0, alone.output
    neighbour = runs["temperature=0.6"]
    assert neighbour.id == alone.run.id, "the same run, however many are executed at once"
    for step, row in rows(alone.run).items():
        assert numbers(rows(neighbour)[step]) == pytest.approx(numbers(row), abs=1e-6, rel=1e-6), step
    for run in runs.values():
        assert left_behind(run) == []
