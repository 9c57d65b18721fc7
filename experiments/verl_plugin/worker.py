"""veRL's workers with a gloo process group, for the CPU."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed
from verl.single_controller.base import Worker
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from experiments.verl_plugin import engine, rollout  # noqa: F401  they register themselves in the worker's process


class CPUTrainingWorker(TrainingWorker):
    """A TrainingWorker whose default process group is gloo.

    veRL would ask torch for "cpu:gloo,cpu:gloo", which torch refuses (one device twice); it keeps a default group
    that exists already.
    """

    def __init__(self, config: Any) -> None:
        Worker.__init__(self)  # exports RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
            )
        super().__init__(config)


class CPUActorRolloutRefWorker(ActorRolloutRefWorker):
    """Actor, rollout adapter and reference policy in one process, built from CPUTrainingWorkers."""

    actor_worker_cls = CPUTrainingWorker
    ref_worker_cls = CPUTrainingWorker
