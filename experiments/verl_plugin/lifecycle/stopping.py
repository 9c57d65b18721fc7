"""trainer.v1.trainer_mode=stoppable: the ablation trainer that stops when its attempt is warned of a kill.

It computes the same numbers as the ablation trainer. At the end of each step it checks whether the attempt was warned
(experiments/store/warning.py). If so, and if there is time for another save, the trainer saves. Then it lets veRL's
loop end as after a last step, so that the rollouts and W&B's rows are complete. A step that is not over when the kill
comes is lost. W&B is closed shortly before the kill.

Read in veRL 0.9.1: verl/trainer/ppo/v1/trainer_base.py (`fit`), verl/utils/tracking.py.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import orjson
from verl.trainer.ppo.v1.trainer_base import register_trainer

from experiments.store import warning
from experiments.store.files import write_atomically
from experiments.store.rundir import NOTED_ROW
from experiments.verl_plugin.training.trainer import AblationTrainer

POLL_SECONDS = 1.0
FLUSH_SECONDS = 20.0  # W&B is closed so long before the kill: until then it keeps the last step in memory only


@register_trainer("stoppable")
class StoppableTrainer(AblationTrainer):
    """Every attempt trains with this class."""

    _saved_step = 0
    _save_seconds = 0.0  # none measured yet: so the first save is always tried; nothing is lost if it is cut short
    _stopping = False
    _began = 0.0
    _trained: tuple[Any, dict[str, Any]]

    @property
    def _attempt(self) -> Path:
        return Path(self.config.trainer.rollout_data_dir).parent

    def on_train_begin(self) -> None:
        super().on_train_begin()
        threading.Thread(target=self._close_tracking_in_time, daemon=True).start()

    def on_step_begin(self) -> None:
        self._began = time.perf_counter()
        super().on_step_begin()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        batch = super().step(metrics, timing_raw)
        self._trained = batch, metrics
        return batch

    def _save_checkpoint(self) -> None:
        self._note_row()
        start = time.monotonic()
        super()._save_checkpoint()
        self._saved_step, self._save_seconds = self.global_steps, time.monotonic() - start

    def _note_row(self) -> None:
        """Keep the step's metrics where the next attempt finds them.

        veRL saves, then validates for minutes, then writes the step's row. After a kill in between, the next attempt
        resumes after this step and does not train it again, so its row would be lost.
        """
        batch, metrics = self._trained
        row, seconds = dict(metrics), {**self.timing_raw, "step": time.perf_counter() - self._began}
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        self._compute_metrics(batch, row, seconds, self.global_steps, epoch)
        line = orjson.dumps({"step": self.global_steps, "data": row}, option=orjson.OPT_SERIALIZE_NUMPY)
        write_atomically(self._attempt / NOTED_ROW, line.decode())

    def on_step_end(self) -> None:
        deadline = warning.deadline(self._attempt)
        if deadline is None or self.global_steps >= self.total_training_steps:
            super().on_step_end()
            return
        if self._saved_step < self.global_steps and time.time() + self._save_seconds < deadline:
            self._save_checkpoint()
        self._stopping = True
        self.total_training_steps = self.global_steps  # veRL's loop ends when it has written this step

    def _validate(self) -> dict[str, Any]:
        """Return the validation's metrics; none when the trainer stops: writing needs the time until the kill."""
        return {} if self._stopping else super()._validate()  # the next attempt begins with a validation

    def _close_tracking_in_time(self) -> None:
        while (deadline := warning.deadline(self._attempt)) is None:
            time.sleep(POLL_SECONDS)
        notice = deadline - time.time()
        time.sleep(max(0.0, notice - min(FLUSH_SECONDS, notice / 2)))
        trackers = dict(self.logger.logger)
        wandb = trackers.pop("wandb", None)
        self.logger.logger = trackers  # the file logger goes on: a step that ends now must not lose its metrics
        if wandb is not None:
            wandb.finish()
