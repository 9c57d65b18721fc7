"""Give the transfer of weights to vLLM a socket of its own in each run.

veRL 0.9.1 names the socket in /tmp by the id of the Ray job and by ranks. Each run has a Ray of its own, so all runs
have the same job id: of two runs on one node, one would get the other's weights. Here the name also tells the run.
Read in veRL 0.9.1: verl/workers/rollout/vllm_rollout/{vllm_rollout,vllm_async_server,utils}.py.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from experiments.variables import MARKER, socket_mark

JOB = "VERL_RAY_JOB_ID"  # veRL's name of the variable by which vLLM's processes learn the Ray job's id


def job_of_this_run() -> str:
    """Return the id of the Ray job, with a digest of the run's folder: two attempts of a run never overlap."""
    job = ray.get_runtime_context().get_job_id()
    run = os.environ.get(MARKER)
    return f"{job}-{socket_mark(run)}" if run else job


class OwnSocketAdapter(ServerAdapter):
    """The training worker's side of the transfer."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        job = ray.get_runtime_context().get_job_id()
        if f"-{job}-" not in self.zmq_handle:
            raise RuntimeError(
                f"veRL's socket must be named by the Ray job {job}, but is {self.zmq_handle}; "
                "experiments/verl_plugin/rollout/vllm_socket.py was written for verl 0.9.1"
            )
        self.zmq_handle = self.zmq_handle.replace(f"-{job}-", f"-{job_of_this_run()}-", 1)


class OwnSocketServer(vLLMHttpServer):
    """vLLM's side: its processes take the job's name from the environment of the server that starts them."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        os.environ[JOB] = job_of_this_run()


class OwnSocketReplica(vLLMReplica):
    """Starts such servers."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.server_class = ray.remote(OwnSocketServer)
