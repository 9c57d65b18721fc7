"""How many CPUs Ray must offer on a node, so that all that veRL asks it for can start.

They are logical: Ray counts them and reserves nothing. But where one is missing, Ray waits for ever and says nothing.
Counted are the actors and bundles that hold a CPU as long as they live. An actor that states no number holds none
(the task runner, the agent loops, the rollout servers). Read in veRL 0.9.1 and TransferQueue 0.1.11.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from experiments.values import at, is_whole

# verl/single_controller/ray/base.py: ResourcePoolManager.max_colocate_count, the CPUs in the bundle of each GPU.
CPUS_OF_A_GPU = 3
CONTROLLER = 1  # transfer_queue/controller.py: TransferQueueController
REWARD_MODEL = "reward.reward_model"  # it may have a pool of GPUs of its own beside the trainer's


def cpus_needed(config: Mapping[str, Any]) -> int:
    """Return how many CPUs Ray must offer on each node; sizes that are no whole numbers count as none."""
    nodes, gpus = (_whole(config["trainer"][key]) for key in ("nnodes", "n_gpus_per_node"))
    if at(config, f"{REWARD_MODEL}.enable_resource_pool"):
        gpus += _whole(at(config, f"{REWARD_MODEL}.n_gpus_per_node"))
    # TransferQueue spreads its storage units evenly over the nodes (transfer_queue/utils/common.py). Its controller is
    # on any of them.
    return CPUS_OF_A_GPU * gpus + CONTROLLER + math.ceil(storage_units(config) / max(1, nodes)) + _scorers(config)


def storage_units(config: Mapping[str, Any]) -> int:
    """Return how many actors TransferQueue's storage has; each holds one CPU (storage/simple_storage.py)."""
    simple = at(config, "transfer_queue.backend.storage_backend", "SimpleStorage") == "SimpleStorage"
    return _whole(at(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units")) if simple else 0


def cpus_offered(config: Mapping[str, Any], of_the_job: str | None) -> int:
    """Return how many CPUs a node's Ray is told of: those that the config states, else the node's, else the need.

    `of_the_job`: SLURM_CPUS_PER_TASK, None outside of a job. By itself Ray counts all CPUs of the machine.
    """
    stated = config["ray_kwargs"]["ray_init"]["num_cpus"]
    if stated is not None:
        return int(stated)
    return max(int(of_the_job) if of_the_job else os.cpu_count() or 1, cpus_needed(config))


def _scorers(config: Mapping[str, Any]) -> int:
    """Return the CPUs of veRL's remote reward manager: each of n reward workers has n processes."""
    remote = at(config, "reward.reward_manager.name") == "remote"
    return _whole(at(config, "reward.num_workers")) ** 2 if remote else 0


def _whole(value: Any) -> int:
    return value if is_whole(value, 0) else 0
