"""veRL's workers, with our engines, attention and rollout registered; on a CPU they use a gloo process group."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed
from verl.single_controller.base import Worker
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from experiments.verl_plugin.rollout import replica  # noqa: F401  they register themselves in the worker's process
from experiments.verl_plugin.threads import use_cores
from experiments.verl_plugin.training import engine  # noqa: F401  they register themselves in the worker's process


class PluginTrainingWorker(TrainingWorker):
    """A TrainingWorker whose default process group is gloo on a CPU.

    veRL would ask torch for "cpu:gloo,cpu:gloo", which torch refuses (one device twice). veRL keeps a default group
    that exists already, so this class makes one first.
    """

    def __init__(self, config: Any) -> None:
        if get_device_name() == "cpu":
            use_cores()
            Worker.__init__(self)  # exports RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
            if not torch.distributed.is_initialized():
                rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
                # MASTER_PORT was free a second ago; another process may have it by now. A single rank needs no port.
                store = torch.distributed.HashStore() if size == 1 else None
                torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        super().__init__(config)


class PluginActorRolloutRefWorker(ActorRolloutRefWorker):
    """Actor, rollout adapter and reference policy in one process, built from PluginTrainingWorkers."""

    actor_worker_cls = PluginTrainingWorker
    ref_worker_cls = PluginTrainingWorker
