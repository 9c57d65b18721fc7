"""What an attempt hands to veRL: the variables of its environment, and veRL's config."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from experiments.attempt.caches import cache_variables
from experiments.config.verl import DATA_FILES, EPOCHS, escaped, verl_node
from experiments.processes import fork_client
from experiments.processes.ray_cpus import cpus_offered
from experiments.store.rundir import Attempt, RunDir
from experiments.values import at
from experiments.variables import CORES, FORK_SOCKET, MARKER, NOT_FINITE, ORIGIN, RAY_ADDRESS, RAY_QUIET, THREADS


def environment(config: dict[str, Any], run: RunDir, attempt: Attempt, scratch: str) -> dict[str, str]:
    """Return the variables that veRL, Ray and W&B read in this attempt."""
    variables = {
        "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin",
        "VERL_FILE_LOGGER_PATH": str(attempt.metrics),
        "HYDRA_FULL_ERROR": "1",
        "TMPDIR": scratch,  # what W&B and others leave here is removed with the attempt's temporary folder
        **RAY_QUIET,
        "RAY_DEDUP_LOGS": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": config["tracking"]["wandb"],
        "WANDB_DIR": str(attempt.path),
        "WANDB_RUN_ID": run.id,
        "WANDB_RESUME": "allow",
        "WANDB_RUN_GROUP": config["tracking"]["group"],
        "WANDB_TAGS": ",".join(config["tracking"]["tags"]),
        "WANDB_SILENT": "true",
        **cache_variables(run.path.parent, os.environ),
        "WANDB_CACHE_DIR": os.environ.get("WANDB_CACHE_DIR") or str(attempt.path),  # it gets the logs of W&B's service
        # veRL turns vLLM's compile cache off, since engines that started together once read half-written files in it.
        # torch 2.11, which our GPU stack has, writes each file under another name and renames it.
        "VLLM_DISABLE_COMPILE_CACHE": os.environ.get("VLLM_DISABLE_COMPILE_CACHE", "0"),
        NOT_FINITE: config.get("watch", {}).get("not_finite", "stop"),  # a run of an earlier version has no such key
    }
    if config["trainer"]["device"] == "cpu":
        # One thread for each process, since veRL's processes take turns; only training processes get more (THREADS).
        variables |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", THREADS: str(threads(config))}
    if Path(config["model"]["path"]).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


def threads(config: dict[str, Any]) -> int:
    """Return how many threads each training process of a CPU run uses: as many as the config says, if cores suffice."""
    ranks = int(config["hardware"]["gpus_per_node"])
    cores = int(os.environ.get(CORES) or os.cpu_count() or 1)
    return max(1, min(int(config["hardware"]["threads"]), cores // ranks))


def verl_config(config: dict[str, Any], run: RunDir, attempt: Attempt, steps: int, variables: dict[str, str]) -> Any:
    """Return the DictConfig for veRL's entry: a frozen config with this attempt's own paths, steps and Ray.

    A run that has a checkpoint goes on from it, whatever checkpoint of another run it once started from.

    `variables`: the attempt's environment. Processes on a cluster that the launcher started need it from veRL's config.
    """

    verl = OmegaConf.create(verl_node(config))
    with open_dict(verl):
        verl.trainer.total_training_steps = steps
        verl.trainer.total_epochs = EPOCHS
        if run.checkpoint_step():
            verl.trainer.resume_mode, verl.trainer.resume_from_path = "auto", None
        for key in DATA_FILES:
            OmegaConf.update(verl, key, escaped(at(config, key)))
        verl.trainer.rollout_data_dir = str(attempt.rollouts)
        verl.trainer.validation_data_dir = str(attempt.validation)
        if verl.trainer.v1.trainer_mode == "ablation":
            verl.trainer.v1.trainer_mode = "stoppable"  # the same trainer, which also stops when it is warned
        if RAY_ADDRESS in os.environ:
            # The launcher's cluster already has its CPUs, but does not know this run, its folder and its code.
            known = (MARKER, ORIGIN, "PYTHONPATH")
            marked = {**variables, **{name: os.environ[name] for name in known if name in os.environ}}
            if config["hardware"]["nodes"] > 1:
                del marked["TMPDIR"]  # the other nodes don't have it; Ray has one on each node
            runtime_env = {**verl.ray_kwargs.ray_init.runtime_env, "env_vars": marked}
            verl.ray_kwargs.ray_init = {"address": os.environ[RAY_ADDRESS], "runtime_env": runtime_env}
        else:
            verl.ray_kwargs.ray_init.address = "local"  # never join somebody else's cluster
            verl.ray_kwargs.ray_init._temp_dir = variables["TMPDIR"]
            verl.ray_kwargs.ray_init.num_cpus = cpus_offered(config, os.environ.get("SLURM_CPUS_PER_TASK"))
        if config["hardware"]["fast"]:
            if FORK_SOCKET in os.environ:
                # Ray hands the command to a shell: a path may have a blank.
                command = [sys.executable, "-S", "-E", fork_client.__file__, os.environ[FORK_SOCKET]]
                verl.ray_kwargs.ray_init.runtime_env.py_executable = shlex.join(command)
            manager = "experiments.verl_plugin.rollout.agent_loop.BatchAgentLoopManager"
            verl.actor_rollout_ref.rollout.agent.agent_loop_manager_class = manager
            verl.reward.num_workers = 0
    return verl
