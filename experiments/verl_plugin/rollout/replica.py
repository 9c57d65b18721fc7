"""rollout.name=hf: who starts the rollout server, and who sends it weights; and vLLM's with a socket of the run's own.

veRL divides a rollout into three parts. The server is server.py. The replica, here, starts the server. The adapter,
here, lives in the training worker and sends the server each new version of the weights. Read in veRL 0.9.1:
verl/workers/rollout/{base,replica}.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.plugin.platform import get_platform
from verl.utils.device import get_resource_name
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.rollout import base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from experiments.verl_plugin.rollout.server import HFRolloutServer, server_name


def place(worker: Any) -> tuple[str, str]:
    """Return the node that a training worker runs on, and the accelerator that Ray gave it."""
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_accelerator_ids()[get_resource_name()][0]


class HFRolloutReplica(RolloutReplica):
    """Starts one server for the ranks of one replica: on the node and the device of its first rank."""

    async def launch_servers(self) -> None:
        """Start the server, unless `start_early` has started it, and wait until it answers."""
        try:
            server = ray.get_actor(server_name(self.replica_rank))
        except ValueError:  # Ray raises it if there is no actor of that name
            server = self.start(*await self.workers[0].__ray_call__.remote(place))
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)

    def start(self, node: str, device: str) -> Any:
        """Start the server on a node and one of its devices; return its actor without waiting until it is up."""
        platform = get_platform()
        actor: Any = ray.remote(HFRolloutServer).options(
            name=server_name(self.replica_rank),
            max_concurrency=self.max_concurrency,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            # Ray gives the server no device, since the worker has it. These say which, before CUDA looks for devices.
            runtime_env={
                "env_vars": {
                    platform.visible_devices_envvar(): device,
                    **dict.fromkeys(platform.ray_noset_envvars(), "1"),
                }
            },
        )
        return actor.remote(self.config, self.model_config, self.replica_rank)


def start_early(config: Any) -> list[Any]:
    """Start the servers of a CPU run on one node before its workers are up; return their handles.

    On one node the place of each server is known beforehand. Ray ends an actor when its last handle goes, so the caller
    must keep the handles until the replicas have found the servers by name. For any other run nothing is started and
    the list is empty.
    """
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    if rollout.name != "hf" or trainer.device != "cpu" or trainer.nnodes > 1:
        return []
    size = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    node = ray.get_runtime_context().get_node_id()
    ranks = range(trainer.n_gpus_per_node // size)
    model, gpus = config.actor_rollout_ref.model, trainer.n_gpus_per_node
    return [HFRolloutReplica(rank, rollout, model, gpus).start(node, "") for rank in ranks]


class HFServerAdapter(BaseRollout):
    """The training worker's side: gathers the policy's weights and sends them to its server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        size = (
            self.config.tensor_model_parallel_size
            * self.config.data_parallel_size
            * self.config.pipeline_model_parallel_size
        )
        rank = int(os.environ["RANK"])
        self.replica_rank = rank // size if replica_rank == -1 else replica_rank
        self.is_leader = rank % size == 0

    # The server keeps its memory between steps, so there is nothing to resume or to release.
    async def resume(self, tags: Any) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Send the weights. Every rank must read the whole iterator: gathering a sharded tensor needs all ranks."""
        if wire_format != "named_tensors":
            raise ValueError(f"the hf rollout takes weights as named_tensors, but got {wire_format}")
        gathered, dtype = {}, PrecisionType.to_dtype(self.config.dtype)
        for name, tensor in weights:
            if self.is_leader:
                gathered[name] = tensor.detach().to("cpu", dtype, copy=True)
        if self.is_leader:
            server = ray.get_actor(server_name(self.replica_rank))
            await server.update_weights.remote(gathered, global_steps=global_steps)


def own_socket_replica() -> type[RolloutReplica]:
    """Return vLLM's replica with a socket of the run's own; vLLM is imported only now."""
    from experiments.verl_plugin.rollout.vllm_socket import OwnSocketReplica

    return OwnSocketReplica


RolloutReplicaRegistry.register("hf", lambda: HFRolloutReplica)
RolloutReplicaRegistry.register("vllm", own_socket_replica)
# veRL 0.9.1 has a registry for replicas. For adapters it has only this private table.
base._ROLLOUT_REGISTRY[("hf", "async")] = "experiments.verl_plugin.rollout.replica.HFServerAdapter"
base._ROLLOUT_REGISTRY[("vllm", "async")] = "experiments.verl_plugin.rollout.vllm_socket.OwnSocketAdapter"
