"""One execution of a run: `python -m experiments.attempt RUN_FOLDER [--steps N]`.

Reads the frozen config, holds the run's lock, sets the environment that veRL reads, starts a Ray of its own, calls
veRL's entry and writes down how it ended. Whatever happens, no process, port, shared memory or temporary folder of the
attempt is left behind by a caller that then calls `processes.reap`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from experiments import fork_client, processes
from experiments.failures import classify
from experiments.rundir import Attempt, RunDir, write_atomically

FORK_SOCKET = "R1Z_FORK_SOCKET"  # where the launcher's fork server listens, if it started one
INTERRUPTED = 130  # the shell's code for Ctrl-C


def environment(config: dict[str, Any], run: RunDir, attempt: Attempt, scratch: str) -> dict[str, str]:
    """Return the variables that veRL, Ray and W&B read in this attempt."""
    variables = {
        "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin",
        "VERL_FILE_LOGGER_PATH": str(attempt.metrics),
        "HYDRA_FULL_ERROR": "1",
        "TMPDIR": scratch,  # what W&B and others leave in a temporary folder goes with the attempt's
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": config["tracking"]["wandb"],
        "WANDB_DIR": str(attempt.path),
        "WANDB_RUN_ID": run.id,
        "WANDB_RESUME": "allow",
        "WANDB_RUN_GROUP": run.path.name.rsplit("-", 1)[0].rsplit(",seed=", 1)[0],
        "WANDB_TAGS": ",".join(part for part in run.path.name.rsplit("-", 1)[0].split(",")),
        "WANDB_SILENT": "true",
    }
    if config["trainer"]["device"] == "cpu":
        # One thread a process: veRL's processes take turns, and two threads on a busy machine cost many times more.
        variables |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    if Path(config["model"]["path"]).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


def verl_config(config: dict[str, Any], attempt: Attempt, steps: int, ray_dir: str) -> Any:
    """Return the DictConfig for veRL's entry: the frozen config with this attempt's own paths and steps."""
    from omegaconf import OmegaConf, open_dict

    from experiments.compose import verl_node

    verl = OmegaConf.create(verl_node(config))
    with open_dict(verl):
        verl.trainer.total_training_steps = steps
        verl.trainer.total_epochs = 1_000_000  # the number of steps ends a run, not the size of the data set
        verl.trainer.rollout_data_dir = str(attempt.rollouts)
        verl.trainer.validation_data_dir = str(attempt.validation)
        verl.ray_kwargs.ray_init.address = "local"  # never somebody else's cluster
        verl.ray_kwargs.ray_init._temp_dir = ray_dir
        if config["hardware"]["fast"]:
            if FORK_SOCKET in os.environ:
                client = Path(fork_client.__file__)
                python = f"{sys.executable} -S -E {client} {os.environ[FORK_SOCKET]}"
                verl.ray_kwargs.ray_init.runtime_env.py_executable = python
            manager = "experiments.verl_plugin.agent_loop.BatchAgentLoopManager"
            verl.actor_rollout_ref.rollout.agent.agent_loop_manager_class = manager
            verl.reward.num_workers = 0
    return verl


def repair_checkpoints(run: RunDir) -> None:
    """Make veRL's pointer name a complete checkpoint, and drop the torn ones that a kill left.

    veRL writes data.pt last and then the pointer, in place: a kill in between leaves an empty pointer.
    """
    complete = {
        int(folder.name.removeprefix("global_step_")): folder
        for folder in run.checkpoints.glob("global_step_*")
        if (folder / "data.pt").is_file() and (folder / "actor").is_dir()
    }
    pointer = run.checkpoints / "latest_checkpointed_iteration.txt"
    step = run.checkpoint_step()
    if step not in complete:
        # Without a pointer the newest folder may be torn: data.pt is there, but was it whole? Take the one before.
        older = sorted(complete)[:-1] if pointer.exists() and step == 0 and len(complete) > 1 else sorted(complete)
        step = older[-1] if older else 0
        if step:
            write_atomically(pointer, str(step))
        elif pointer.exists():
            pointer.unlink()
    for folder in run.checkpoints.glob("global_step_*"):
        if int(folder.name.removeprefix("global_step_")) > step:
            shutil.rmtree(folder)


def train(verl: Any) -> None:
    """Run veRL's own entry on a Ray cluster of this process, and take the cluster down again."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    class TaskRunner(TaskRunnerV1.__ray_actor_class__):  # type: ignore[misc, name-defined]
        def run(self, config: Any) -> None:
            from experiments.verl_plugin import trainer  # noqa: F401  registers trainer_mode=ablation in this process

            super().run(config)

    validate_config(verl, need_reference_policy(verl), need_critic(verl))
    try:
        run_ppo(verl, task_runner_class=ray.remote(TaskRunner))
    finally:
        ray.shutdown()


def execute(run: RunDir, steps: int | None = None) -> int:
    """Execute one attempt of a run in this process; return its exit code (0 done, 1 failed, 130 interrupted)."""
    config = run.load_config()
    steps = steps or int(config["trainer"]["total_training_steps"])
    with run.lock():
        attempt = run.new_attempt()
        ray_dir = tempfile.mkdtemp(prefix=processes.scratch_prefix(run.path), dir="/tmp")
        variables = environment(config, run, attempt, ray_dir)
        os.environ.update(variables)
        if config["trainer"]["device"] == "cpu":
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray would count its devices against our logical ones
        repair_checkpoints(run)
        job = {"pid": os.getpid(), "host": socket.gethostname(), "steps": steps, "environment": variables}
        write_atomically(attempt.path / "job.json", json.dumps(job, indent=1) + "\n")
        with open(attempt.log, "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(attempt.path)
        resumed = run.checkpoint_step()
        run.record("started", attempt=attempt.number, pid=os.getpid(), host=socket.gethostname(), steps=steps)
        if resumed:
            run.record("resumed", attempt=attempt.number, step=resumed)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        try:
            train(verl_config(config, attempt, steps, ray_dir))
        except (KeyboardInterrupt, SystemExit):  # Ray turns a SIGTERM into sys.exit
            run.record("interrupted", attempt=attempt.number, step=run.checkpoint_step())
            return INTERRUPTED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            failure = classify(attempt.log)
            run.record("failed", attempt=attempt.number, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
            return 1
        else:
            run.record("finished", attempt=attempt.number, step=run.checkpoint_step())
            return 0
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            shutil.rmtree(ray_dir, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute one attempt of a run that has been planned.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, help="train to this step (default: the frozen config's)")
    arguments = parser.parse_args()
    return execute(RunDir(arguments.run.absolute()), arguments.steps)


if __name__ == "__main__":
    sys.exit(main())
