"""experiments/failures.py on the ends of logs as veRL, Ray, torch and the kernel write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.failures import TAIL_BYTES, classify

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
        "micro-batch",
    ),
    (
        "out of memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=42.batch. Some of the tasks have been OOM Killed.\n",
        "oom_kill event",
        "micro-batch",
    ),
    ("out of memory", "terminate called after throwing an instance of 'std::bad_alloc'\n", "std::bad_alloc", "micro-"),
    (
        "Ray could not start",
        "[2026-11-22 18:00:43,070 E 1 1] core_worker.cc:215: Failed to register worker to Raylet: "
        "Unable to register worker with raylet. IOError: End of file\n",
        "Unable to register worker with raylet",
        "ray_kwargs.ray_init.num_cpus",
    ),
    (
        "Ray could not start",
        "OSError: ray's AF_UNIX path length cannot exceed 107 bytes, but '/tmp/r1z-x/sockets/plasma_store' has 118\n",
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
        "no usable rollouts",
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
        "the first error above it",
    ),
    (
        "reward error",
        "ray.exceptions.RayTaskError(KeyError): \x1b[36mray::RewardLoopWorker.compute_score_batch()\x1b[39m (pid=8)\n"
        "  File \"reward.py\", line 12, in compute_score: KeyError: 'target'\n",
        "KeyError: 'target'",
        "it must return a dict",
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


def test_a_cause_outranks_what_follows_from_it(log: Path) -> None:
    """Out of memory breaks Ray, the rollouts and at last an assertion; memory is what to do something about."""
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
    assert classify(log).kind == "error"


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
    assert (missing.kind, missing.remedy) == ("error", "start again")
    assert missing.cause.startswith("no log:")
    log.touch()
    assert classify(log).cause == "the log is empty"
    log.write_text("\n\n  \n")
    assert classify(log).cause, "a log of empty lines still has something to say"
