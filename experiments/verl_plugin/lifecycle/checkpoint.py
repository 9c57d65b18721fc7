"""veRL's checkpoint callback: each complete checkpoint becomes an event of the run."""

import shutil
from pathlib import Path
from typing import Any

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from experiments.store.events import Event
from experiments.store.rundir import RunDir


class CheckpointEvents(CheckpointCallback):
    """Chosen by trainer.checkpoint_callback_class; trainer.default_local_dir is the run's checkpoints/ folder."""

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Record the event, and remove the folders of old checkpoints whose weights veRL has deleted."""
        run = RunDir(Path(self.config.trainer.default_local_dir).parent)
        run.record(Event.CHECKPOINT, step=global_step)
        for folder in run.checkpoints.glob("global_step_*"):
            if not (folder / "actor").exists():  # veRL keeps the folder
                shutil.rmtree(folder, ignore_errors=True)
