"""trainer.v1.trainer_mode=stoppable: the ablation trainer that stops when its attempt is warned of a kill.

It also stops at a loss or gradient that is not finite, and warns if the first rewards leave nothing to learn.

It computes the same numbers as the ablation trainer. At the end of each step it checks whether the attempt was warned
(experiments/store/warning.py). If so, and if there is time for another save, the trainer saves. Then it lets veRL's
loop end as after a last step, so that the rollouts and W&B's rows are complete. A step that is not over when the kill
comes is lost. W&B is closed shortly before the kill.

Read in veRL 0.9.1: verl/trainer/ppo/v1/trainer_base.py (`fit`), verl/utils/tracking.py.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY
from verl.trainer.ppo.v1.trainer_base import register_trainer

from experiments.store import warning
from experiments.store.events import Event
from experiments.store.files import write_atomically
from experiments.store.rundir import NOTED_ROW, PHASE, RunDir
from experiments.variables import NOT_FINITE
from experiments.verl_keys import GROUPED
from experiments.verl_plugin.lifecycle import signal_check
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
    _looked_at = False
    """Whether the rewards of this attempt's first step have been looked at."""

    @property
    def _attempt(self) -> Path:
        return Path(self.config.trainer.rollout_data_dir).parent

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._say("training")
        threading.Thread(target=self._close_tracking_in_time, daemon=True).start()

    def _say(self, phase: str) -> None:
        """Write down what the trainer does: attempt/stall.py allows more time for some of it."""
        write_atomically(self._attempt / PHASE, phase)

    def on_validate_begin(self) -> None:
        self._say("validation")
        super().on_validate_begin()

    def on_validate_end(self) -> None:
        super().on_validate_end()
        self._say("training")

    def on_step_begin(self) -> None:
        self._began = time.perf_counter()
        super().on_step_begin()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        batch = super().step(metrics, timing_raw)
        if os.environ.get(NOT_FINITE) != "go_on":
            signal_check.check_finite(metrics, self.global_steps)
        self._trained = batch, metrics
        if not self._looked_at and self.config.algorithm.adv_estimator in GROUPED:
            self._looked_at = True
            self._warn(signal_check.without_signal(self._rewards(batch)))
        return batch

    @staticmethod
    def _rewards(batch: Any) -> dict[str, list[float]]:
        """Return the rewards of a step's responses by group."""
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        data = transfer_queue.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["rm_scores"])
        groups = defaultdict(list)
        for key, scores in zip(keys, data["rm_scores"], strict=True):
            groups[key.rsplit("_", 2)[0]].append(float(scores.sum()))
        return groups

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list],
        *rest: Any,
        **more: Any,
    ) -> dict[str, float]:
        if self.global_steps == 0:
            self._warn(signal_check.never_rewarded(reward_extra_infos_dict["reward"]))
        return super()._val_metrics_update(data_sources, sample_uids, reward_extra_infos_dict, *rest, **more)

    def _warn(self, text: str | None) -> None:
        if text is not None:
            run = RunDir(Path(self.config.trainer.default_local_dir).parent)
            run.record(Event.WARNED, step=self.global_steps, text=text)

    def _save_checkpoint(self) -> None:
        self._note_row()
        self._say("saving")
        start = time.monotonic()
        super()._save_checkpoint()
        self._say("training")
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
        row.pop(DAPO_FILTERED_REWARD_COUNTS_KEY, None)  # no number; veRL takes it out too before it writes a row
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
