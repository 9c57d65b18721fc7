"""Run veRL's task runner: in a Ray actor, as veRL does, or in the attempt's own process, which starts sooner.

Imports ray and veRL. Read in veRL 0.9.1: verl/trainer/main_ppo.py.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pprint import pprint
from types import SimpleNamespace
from typing import Any

import ray
import transfer_queue
from omegaconf import OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.logging_utils import configure_verl_logging

from experiments.processes import reaping
from experiments.variables import MARKER


class TaskRunner(TaskRunnerV1.__ray_actor_class__):  # type: ignore[misc, name-defined]
    """veRL's task runner, which also registers our trainer and removes its shared memory at the end."""

    def run(self, config: Any) -> None:
        from experiments.verl_plugin.lifecycle import stopping  # noqa: F401  registers trainer_mode=stoppable in this process

        try:
            self.train(config)
        finally:  # the actors of this process end with it
            reaping.drop_shared_memory(Path(os.environ[MARKER]))

    def train(self, config: Any) -> None:
        super().run(config)


class EagerTaskRunner(TaskRunner):
    """Does what veRL's task runner does, but starts TransferQueue and the rollout servers while the workers start."""

    def train(self, config: Any) -> None:
        from experiments.verl_plugin.rollout.replica import start_early

        configure_verl_logging()
        trainer = get_trainer_cls(config.trainer.v1.trainer_mode)
        config.transfer_queue.enable = True
        pprint(OmegaConf.to_container(config, resolve=True))
        OmegaConf.resolve(config)
        self.config, self.trainer = config, None
        succeeded = False
        try:
            with ThreadPoolExecutor() as beside:
                queue = beside.submit(transfer_queue.init, config.transfer_queue)
                self.servers = start_early(config)  # kept, because Ray ends an actor without a handle
                self.trainer = trainer(config=config)
                self.trainer.init()
                queue.result()
            self.init_agent_loop_manager()
            self.trainer.fit(self.agent_loop_manager)
            succeeded = True
        finally:
            try:
                tracking = getattr(self.trainer, "logger", None)
                if tracking is not None:
                    tracking.finish(exit_code=0 if succeeded else 1)
            finally:
                transfer_queue.close()


def actor_class(here: bool) -> Any:
    """Return what run_ppo uses as the actor class. `here`: the "actor" is this process, so none must be started."""
    if not here:
        return ray.remote(TaskRunner)

    def run(config: Any) -> Any:
        EagerTaskRunner().run(config)
        return ray.put(None)

    return SimpleNamespace(remote=lambda: SimpleNamespace(run=SimpleNamespace(remote=run)))
