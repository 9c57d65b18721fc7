"""Test the end of a warned run's step: a checkpoint if there is time, and W&B's last step on the disk."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from omegaconf import OmegaConf

from analysis.sources.wandb_log import read_log
from experiments.store import warning
from experiments.verl_plugin.lifecycle.stopping import StoppableTrainer
from experiments.verl_plugin.training.trainer import AblationTrainer


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoppableTrainer:
    """Return a trainer after step 3 of 10; its veRL part only records what it is asked for."""
    one = StoppableTrainer.__new__(StoppableTrainer)
    one.config = OmegaConf.create({"trainer": {"rollout_data_dir": str(tmp_path / "rollouts")}})
    one.global_steps, one.total_training_steps = 3, 10
    one.asked = []
    monkeypatch.setattr(StoppableTrainer, "_note_row", lambda self: None)
    for name in ("_save_checkpoint", "on_step_end", "_validate"):
        monkeypatch.setattr(AblationTrainer, name, lambda self, name=name: self.asked.append(name))
    return one


def test_without_a_warning_the_run_goes_on(trainer: StoppableTrainer) -> None:
    trainer.on_step_end()
    trainer._validate()
    assert trainer.asked == ["on_step_end", "_validate"] and trainer.total_training_steps == 10


@pytest.mark.parametrize(
    ("save_seconds", "saved_step", "saves"),
    [(30.0, 2, True), (0.0, 0, True), (90.0, 2, False), (1.0, 3, False)],
    ids=["there is time", "nobody knows how long it takes", "there is no time", "it is saved already"],
)
def test_a_warned_run_saves_what_it_can_and_stops(
    trainer: StoppableTrainer, tmp_path: Path, save_seconds: float, saved_step: int, saves: bool
) -> None:
    trainer._save_seconds, trainer._saved_step = save_seconds, saved_step
    warning.warn(tmp_path, time.time() + 60)
    trainer.on_step_end()
    trainer._validate()
    assert trainer.asked == (["_save_checkpoint"] if saves else []), "no validation either"
    assert trainer.total_training_steps == 3, "the loop ends after this step"


def test_w_and_b_is_on_the_disk_although_the_step_does_not_end(trainer: StoppableTrainer, tmp_path: Path) -> None:
    """The file logger stays open: a step that ends in the last seconds is not lost."""
    file_logger = object()
    run = wandb.init(mode="offline", dir=str(tmp_path), project="p", id="0123abcd")
    try:
        run.log({"critic/score/mean": 0.5}, step=1)
        trainer.logger = SimpleNamespace(logger={"wandb": wandb, "file": file_logger})
        warning.warn(tmp_path, time.time() + 2.0)
        trainer._close_tracking_in_time()
        (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
        deadline = time.monotonic() + 10  # W&B's own process writes; the kill comes FLUSH_SECONDS later
        while not (read := read_log(log)).rows and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [step for step, _ in read.rows] == [1] and read.exit_code == 0
        assert trainer.logger.logger == {"file": file_logger}
    finally:
        wandb.finish()
