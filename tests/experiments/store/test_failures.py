"""Test experiments/store/failures.py on the ends of logs as veRL, Ray, torch and the kernel write them."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.store.failures import (
    PHASES,
    TAIL_BYTES,
    Failure,
    classify,
    of_a_silent_end,
    of_an_error,
    of_memory,
    passes,
)
from experiments.values import flatten

NOISE = """\
\x1b[36m(TaskRunner pid=12161)\x1b[0m INFO:2026-11-22 18:00:43,070:Platform override from VERL_PLATFORM: cpu
\x1b[36m(TaskRunner pid=12161)\x1b[0m {'actor_rollout_ref': {'actor': {'_target_': 'verl.workers.config.ActorConfig',
\x1b[36m(TaskRunner pid=12161)\x1b[0m                                  'calculate_entropy': False,
\x1b[36m(WorkerDict pid=12301)\x1b[0m /site-packages/torch/distributed/fsdp/api.py:12: UserWarning: resharding is off
\x1b[36m(TaskRunner pid=12161)\x1b[0m Training Progress:  50%|█████     | 1/2 [00:09<00:09,  9.85s/it]
\x1b[36m(TaskRunner pid=12161)\x1b[0m step:1 - actor/pg_loss:0.0121 - actor/grad_norm:1.4403 - critic/score/mean:0.1031
"""

CASES = [
    (
        "disk full",
        """\
  File "/site-packages/torch/serialization.py", line 944, in save
    _save(obj, opened_zipfile, pickle_module, pickle_protocol)
OSError: [Errno 28] No space left on device: '/scratch/checkpoints/global_step_10/actor/model_world_size_1_rank_0.pt'
""",
        "OSError: [Errno 28] No space left on device",
        "make room",
    ),
    ("disk full", "OSError: [Errno 122] Disk quota exceeded: '/home/me/runs'\n", "Disk quota exceeded", "make room"),
    (
        "out of memory",
        """\
\x1b[36m(WorkerDict pid=991, ip=10.0.0.7)\x1b[0m torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB.
Traceback (most recent call last):
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
""",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB.",
        "micro-batch",
    ),
    (
        "out of memory",
        "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\n",
        "Task was killed due to the node running low on memory",
        "the machine's own memory",
    ),
    (
        "out of memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=42.batch. Some of the tasks have been OOM Killed.\n",
        "oom_kill event",
        "the machine's own memory",
    ),
    (
        "out of memory",
        "terminate called after throwing an instance of 'std::bad_alloc'\n",
        "std::bad_alloc",
        "the machine's",
    ),
    (
        "Ray could not start",
        "[2026-11-22 18:00:43,070 E 1 1] core_worker.cc:215: Failed to register worker to Raylet: "
        "Unable to register worker with raylet. IOError: End of file\n",
        "Unable to register worker with raylet",
        "ulimit -a",
    ),
    (
        "too few GPUs",
        "ValueError: Total available GPUs 1.0 is less than total desired GPUs 2\n"
        "ray.exceptions.RayTaskError(ValueError): ray::TaskRunner.run() (pid=104449, ip=10.130.71.7)\n",
        "Total available GPUs 1.0 is less than total desired GPUs 2",
        "hardware.gpus_per_node",
    ),
    (
        "out of memory in the log-probs",
        """\
  File "/site-packages/verl/workers/engine_workers.py", line 703, in compute_log_prob
    output = self.actor.infer_batch(data)
  File "/site-packages/verl/workers/engine/fsdp/transformer_impl.py", line 757, in forward_backward_batch
    loss, meta_info = self.forward_step(micro_batch, loss_function=loss_function, forward_only=forward_only)
  File "/site-packages/verl/utils/torch_functional.py", line 148, in entropy_from_logits
    entropy = torch.logsumexp(logits, dim=-1) - torch.sum(pd * logits, dim=-1)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 13.91 GiB. GPU 0 has a total capacity of 79.11 GiB
""",
        "Tried to allocate 13.91 GiB",
        "log_prob_micro_batch_size_per_gpu",
    ),
    (
        "out of memory in the update",
        """\
  File "/site-packages/verl/workers/engine_workers.py", line 713, in update_actor
    output = self.actor.train_mini_batch(data=data)
  File "/site-packages/verl/workers/engine/fsdp/transformer_impl.py", line 764, in forward_backward_batch
    loss.backward()
  File "/site-packages/torch/autograd/graph.py", line 825, in _engine_run_backward
    return Variable._execution_engine.run_backward(
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.63 GiB. GPU 1 has a total capacity of 79.11 GiB
ray.exceptions.RayTaskError(OutOfMemoryError): ray::TaskRunner.run() (pid=104449, ip=10.130.71.7)
""",
        "Tried to allocate 4.63 GiB",
        "ppo_micro_batch_size_per_gpu",
    ),
    (
        "out of memory in the update",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.63 GiB.\n"
        "ray.exceptions.RayTaskError(OutOfMemoryError): ray::WorkerDict.actor_rollout_ref_update_actor() (pid=8)\n",
        "CUDA out of memory",
        "ppo_micro_batch_size_per_gpu",
    ),
    (
        "out of memory in the rollout",
        '  File "/site-packages/vllm/v1/worker/gpu_worker.py", line 231, in init_device\n'
        "ValueError: Free memory on device (3.2/79.1 GiB) is less than desired GPU memory utilization (0.6)\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n",
        "Free memory on device",
        "gpu_memory_utilization: lower",
    ),
    (
        "out of memory in the rollout",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.\n",
        "No available memory for the cache blocks",
        "raise it where the cache has no room",
    ),
    (
        "out of memory in the rollout",
        '  File "/site-packages/vllm/v1/engine/core.py", line 507, in wake_up\n'
        "RuntimeError: CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62\n"
        "CUDA error: out of memory\n",
        "out of memory",
        "gpu_memory_utilization",
    ),
    (
        "disk full",
        "RuntimeError: [enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/7: "
        "file write failed\n",
        "failed writing file data/7",
        "make room",
    ),
    (
        "time limit",
        "srun: Job step aborted: Waiting up to 47 seconds for job step to finish.\n"
        "slurmstepd: error: *** JOB 494583 ON n1 CANCELLED AT 2026-04-20T09:09:37 DUE TO TIME LIMIT ***\n",
        "DUE TO TIME LIMIT",
        "ask for more time",
    ),
    (
        "killed",
        "slurmstepd: error: *** JOB 37361369 ON n2 CANCELLED AT 2026-03-15T18:00:46 DUE TO PREEMPTION ***\n",
        "DUE TO PREEMPTION",
        "start again: the run resumes",
    ),
    (
        "killed",
        "\x1b[33m(raylet)\x1b[0m A worker died or was killed while executing a task by an unexpected system error.\n",
        "A worker died or was killed",
        "dmesg",
    ),
    (
        "Ray could not start",
        "[2026-02-16 16:05:55,537 E 350061 350061] gcs_rpc_client.h:179: Failed to connect to GCS at address "
        "172.23.15.13:20000 within 5 seconds.\n",
        "Failed to connect to GCS",
        "/tmp",
    ),
    (
        "Ray could not start",
        "Exception: The current node timed out during startup. This could happen because some of the raylet failed to "
        "startup or the GCS has become overloaded.\n",
        "timed out during startup",
        "/tmp",
    ),
    (
        "missing model or data",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.\n",
        "couldn't connect to",
        "model.path",
    ),
    (
        "NaN loss",
        "WARN: grad_norm is not finite: nan\n"
        "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0\n",
        "probability tensor contains",
        "learning rate",
    ),
    (
        "reward error",
        """\
ray.exceptions.RayTaskError(TypeError): \x1b[36mray::RewardLoopWorker.compute_score()\x1b[39m (pid=8, ip=10.0.0.7)
  File "/site-packages/verl/experimental/reward_loop/reward_manager/naive.py", line 78, in run_single
    result = await self.loop.run_in_executor(
  File "/home/me/reward.py", line 12, in compute_score
    return {"score": target - value}
TypeError: unsupported operand type(s) for -: 'str' and 'int'
""",
        "TypeError: unsupported operand",
        "fix the reward function",
    ),
    (
        "Ray could not start",
        "OSError: validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/r1z-x\n",
        "AF_UNIX",
        "/tmp",
    ),
    (
        "port taken",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use\n",
        "EADDRINUSE",
        "start again",
    ),
    (
        "missing model or data",
        "OSError: Qwen/Qwen2.5-3C is not a local folder and is not a valid model identifier listed on the hub\n",
        "not a valid model identifier",
        "model.path",
    ),
    (
        "missing model or data",
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/train.parquet'\n",
        "/data/train.parquet",
        "data.train_files",
    ),
    (
        "reward error",
        """\
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m ERROR:agent_loop:Error in _run_prompt: division by zero
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m Traceback (most recent call last):
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m   File "reward.py", line 12, in compute_score
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m ZeroDivisionError: division by zero
Traceback (most recent call last):
ray.exceptions.RayTaskError(ValueError): ray::TaskRunner.run() (pid=5, ip=10.0.0.7)
ValueError: empty list as keys
""",
        "ZeroDivisionError: division by zero",
        "fix the reward function",
    ),
    (
        "no usable rollouts",
        """\
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m ERROR:agent_loop:Error in _run_prompt: no room for the prompt
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m Traceback (most recent call last):
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m   File "single_turn_agent_loop.py", line 12, in run
\x1b[36m(AgentLoopWorker pid=7)\x1b[0m RuntimeError: no room for the prompt
ValueError: empty list as keys
""",
        "RuntimeError: no room for the prompt",
        "the first error above it",
    ),
    (
        "reward error",
        "ray.exceptions.RayTaskError(KeyError): \x1b[36mray::RewardLoopWorker.compute_score_batch()\x1b[39m (pid=8)\n"
        "  File \"reward.py\", line 12, in compute_score: KeyError: 'target'\n",
        "KeyError: 'target'",
        "it must score any response",
    ),
    (
        "NaN loss",
        "(TaskRunner pid=3) step:7 - actor/pg_loss:nan - actor/grad_norm:nan\n",
        "pg_loss:nan",
        "learning rate",
    ),
    (
        "configuration",
        "AssertionError: data size must be divisible by force_group_size * micro_batch_size_per_gpu\n",
        "AssertionError: data size must be divisible",
        "read the end of the log",
    ),
    (
        "killed",
        "ray.exceptions.ActorUnavailableError: The actor 97ab50df is unavailable: RpcError: RPC error: Socket closed\n",
        "ActorUnavailableError",
        "start again",
    ),
    (
        "killed",
        """\
RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.99.0.12]:55451. \
This is typically caused by a remote worker crashing. Check the logs of the remote worker before reporting an error.
""",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer",
        "start again",
    ),
    (
        "killed",
        """\
RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.99.0.12]:39082: Connection \
reset by peer. This is typically caused by a remote worker hanging or bugs in the application.
""",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error",
        "start again",
    ),
    (
        "error",
        """\
Traceback (most recent call last):
  File "trainer.py", line 3, in <module>
    step()
zmq.error.ZMQError: Resource temporarily unavailable
""",
        "zmq.error.ZMQError: Resource temporarily unavailable",
        "read the end of the log",
    ),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("kind, tail, cause, remedy", CASES)
def test_the_end_of_a_log_shows_the_failure(log: Path, kind: str, tail: str, cause: str, remedy: str) -> None:
    log.write_text(NOISE + tail)
    failure = classify(log)
    assert failure.kind == kind
    assert cause in failure.cause
    assert remedy in failure.remedy


@pytest.mark.parametrize(
    "prefix",
    [
        "\x1b[36m(TaskRunner pid=12161)\x1b[0m ",
        "\x1b[36m(WorkerDict pid=991, ip=10.0.0.7)\x1b[0m ",
        "(TaskRunner pid=12161) ",
        "(pid=12161) ",
        "\x1b[33m(raylet)\x1b[0m ",
        "\x1b[1m\x1b[31m",
        "",
    ],
)
def test_ray_s_prefix_and_colours_are_no_part_of_the_cause(log: Path, prefix: str) -> None:
    for line in ("AssertionError: 30 % 7 != 0", "zmq.error.ZMQError: busy"):
        log.write_text(f"{NOISE}{prefix}Traceback (most recent call last):\n{prefix}{line}\x1b[0m\n{prefix}  ^^^^\n")
        assert classify(log).cause == line


def test_an_attempt_that_could_not_begin_says_what_was_in_its_way() -> None:
    full = of_an_error(OSError(errno.ENOSPC, "No space left on device", "/runs/a/attempts/1"))
    assert full.kind == "disk full" and "/runs/a/attempts/1" in full.cause and full.remedy.startswith("make room and ")
    other = of_an_error(PermissionError(errno.EACCES, "Permission denied", "/runs/a/attempts"))
    assert other.kind == "error" and "/runs/a/attempts" in other.cause and other.remedy.startswith("mend that and ")
    told = of_an_error(UserError("/tmp must be writable, but is not; mend it"))
    assert (told.cause, told.remedy) == ("/tmp must be writable, but is not", "mend it")


def test_a_port_that_is_taken_is_told_by_what_python_says_of_it(log: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        again = f"import socket; socket.socket().bind({listener.getsockname()!r})"
        log.write_text(subprocess.run([sys.executable, "-c", again], capture_output=True, text=True).stderr)
    failure = classify(log)
    assert (failure.kind, failure.remedy) == ("port taken", "start again: ports are chosen anew")
    assert "Address already in use" in failure.cause


def test_a_cause_outranks_what_follows_from_it(log: Path) -> None:
    """An out-of-memory also breaks Ray, the rollouts and at last an assertion; the user must act on the memory."""
    log.write_text(
        "torch.OutOfMemoryError: CUDA out of memory\n"
        "Failed to connect to GCS\nError in _run_prompt: actor died\nAssertionError: no rows\n"
    )
    assert classify(log).kind == "out of memory"


def test_ray_s_guess_at_a_dead_worker_is_no_proof_of_an_out_of_memory(log: Path) -> None:
    log.write_text(
        "ray.exceptions.ActorDiedError: The actor died unexpectedly. There are some potential root causes. "
        "(1) The process is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called.\n"
    )
    assert classify(log).kind == "killed"


def test_each_phase_s_remedy_names_keys_that_exist(resolved: Callable[..., dict[str, Any]]) -> None:
    names = {key.rsplit(".", 1)[-1] for key, _ in flatten(resolved())}
    for _, _, remedy in PHASES:
        knobs = re.findall(r"\w+_(?:size|len)_per_gpu|gpu_memory_utilization", remedy)
        assert knobs and set(knobs) <= names


def test_the_last_of_several_lines_is_the_cause(log: Path) -> None:
    log.write_text("AssertionError: first, retried\nmore\nAssertionError: last\nbye\n")
    assert classify(log).cause == "AssertionError: last"


def test_a_training_without_an_error_is_of_no_known_kind(log: Path) -> None:
    log.write_text(NOISE)
    failure = classify(log)
    assert failure.kind == "error"
    assert "critic/score/mean:0.1031" in failure.cause, "all there is to show is the last line"


def test_the_model_s_own_words_are_cut_to_a_line_s_length(log: Path) -> None:
    log.write_text("ValueError: " + "x" * 5000 + "\n")
    assert len(classify(log).cause) == 300


def test_only_the_end_of_a_long_log_is_read(log: Path) -> None:
    long_ago = "OSError: [Errno 28] No space left on device\n"
    log.write_text(long_ago + "step\n" * TAIL_BYTES + "AssertionError: now\n")
    assert classify(log).kind == "configuration"


def test_a_log_that_is_not_text_is_read_all_the_same(log: Path) -> None:
    log.write_bytes(b"\xff\xfe\x00\x80 garbage\n" * 20 + "é".encode()[:1] + b"\nEADDRINUSE\n")
    assert classify(log).kind == "port taken"


def test_no_log_and_an_empty_log(log: Path) -> None:
    missing = classify(log)
    assert (missing.kind, missing.cause) == ("error", "it left no log") and missing.remedy.startswith("start again")
    log.touch()
    assert classify(log).cause == "the log is empty"
    log.write_text("\n\n  \n")
    assert classify(log).cause, "a log of empty lines still has something to say"


def test_a_silent_end_is_not_blamed_on_the_last_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(NOISE + "(raylet) local_resource_manager.cc:342: Object store memory is idle.\n")
    verdict = tmp_path / "verdict"
    failure = of_a_silent_end(tmp_path, 1, verdict, tmp_path / "log")
    assert (failure.kind, failure.cause) == (
        "killed",
        "the attempt's process ended with 1; its log ends: local_resource_manager.cc:342: Object store memory is idle.",
    )
    known = of_a_silent_end(tmp_path, 1, verdict, tmp_path / "log", "Ray's raylet (process 12) was killed by SIGKILL")
    assert known.cause == "Ray's raylet (process 12) was killed by SIGKILL"


def test_a_kill_for_memory_is_no_other_kill() -> None:
    killed, mistake = Failure("killed", "the attempt was killed by SIGKILL", "r"), Failure("error", "KeyError", "r")
    assert of_memory(killed, 0) == killed and of_memory(mistake, 1) == mistake
    here, in_job = of_memory(killed, 1), of_memory(killed, 2, in_job=True)
    assert here.kind == in_job.kind == "out of memory"
    assert here.cause.endswith("SIGKILL: the kernel killed a process for memory") and passes(here.__dict__)
    assert "killed 2 processes for memory" in in_job.cause and not passes(in_job.__dict__)
    assert in_job.remedy == "ask for more: hydra.launcher.mem"
