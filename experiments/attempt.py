"""One execution of a run: `python -m experiments.attempt RUN_FOLDER [--steps N] [--config NAME]`.

Reads a frozen config, holds the run's lock, sets the environment that veRL reads, starts a Ray of its own, calls
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
import traceback
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

from experiments import fork_client, processes, warning
from experiments.errors import UserError
from experiments.failures import classify, of_an_error
from experiments.frozen import FIRST
from experiments.rundir import NOTED_ROW, Attempt, RunDir, append_line, read_jsonl, write_atomically
from experiments.slurm.jobs import own_id
from experiments.snapshot import ORIGIN, relocated

FORK_SOCKET = "R1Z_FORK_SOCKET"  # where the launcher's fork server listens, if it started one
RAY_ADDRESS = "R1Z_RAY_ADDRESS"  # the launcher's Ray cluster, if it started one
THREADS = "R1Z_THREADS"  # how many a training process uses
# What Ray reads when a cluster starts. No usage report; no counting of CUDA devices, which would hide our logical ones;
# no workers on the chance that they are wanted: those would be plain ones, and ours have an environment of their own.
RAY_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
}
INTERRUPTED = 130  # the shell's code for Ctrl-C


def environment(config: dict[str, Any], run: RunDir, attempt: Attempt, scratch: str) -> dict[str, str]:
    """Return the variables that veRL, Ray and W&B read in this attempt."""
    variables = {
        "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin",
        "VERL_FILE_LOGGER_PATH": str(attempt.metrics),
        "HYDRA_FULL_ERROR": "1",
        "TMPDIR": scratch,  # what W&B and others leave in a temporary folder goes with the attempt's
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
    }
    if config["trainer"]["device"] == "cpu":
        # One thread a process, since veRL's processes take turns; only the training ones get more.
        variables |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", THREADS: str(threads(config))}
    if Path(config["model"]["path"]).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


def threads(config: dict[str, Any]) -> int:
    """Return how many threads each training process of a CPU run uses: what the config asks for, if there are cores."""
    ranks = int(config["hardware"]["gpus_per_node"])
    return max(1, min(int(config["hardware"]["threads"]), (os.cpu_count() or 1) // ranks))


def verl_config(config: dict[str, Any], attempt: Attempt, steps: int, variables: dict[str, str]) -> Any:
    """Return the DictConfig for veRL's entry: a frozen config with this attempt's own paths, steps and Ray.

    `variables` are those of the attempt's environment; the processes on a cluster that was there before need them too.
    """
    from omegaconf import OmegaConf, open_dict

    from experiments.compose import verl_node

    verl = OmegaConf.create(verl_node(config))
    with open_dict(verl):
        verl.trainer.total_training_steps = steps
        verl.trainer.total_epochs = 1_000_000  # the number of steps ends a run, not the size of the data set
        verl.trainer.rollout_data_dir = str(attempt.rollouts)
        verl.trainer.validation_data_dir = str(attempt.validation)
        if verl.trainer.v1.trainer_mode == "ablation":
            verl.trainer.v1.trainer_mode = "stoppable"  # the same one, heeding a warning
        if RAY_ADDRESS in os.environ:
            # The launcher's cluster has its CPUs already; it knows neither this run nor its folder nor its code.
            known = (processes.MARKER, ORIGIN, "PYTHONPATH")
            marked = {**variables, **{name: os.environ[name] for name in known if name in os.environ}}
            if config["hardware"]["nodes"] > 1:
                del marked["TMPDIR"]  # which the other nodes don't have; Ray was given one on each
            runtime_env = {**verl.ray_kwargs.ray_init.runtime_env, "env_vars": marked}
            verl.ray_kwargs.ray_init = {"address": os.environ[RAY_ADDRESS], "runtime_env": runtime_env}
        else:
            verl.ray_kwargs.ray_init.address = "local"  # never somebody else's cluster
            verl.ray_kwargs.ray_init._temp_dir = variables["TMPDIR"]
            if verl.ray_kwargs.ray_init.num_cpus is None and "SLURM_CPUS_PER_TASK" in os.environ:
                verl.ray_kwargs.ray_init.num_cpus = int(os.environ["SLURM_CPUS_PER_TASK"])  # Ray counts the machine's
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

    veRL writes data.pt last and then the pointer, in place: a kill leaves data.pt torn, or after it an empty pointer.
    """
    complete = {
        int(folder.name.removeprefix("global_step_")): folder
        for folder in run.checkpoints.glob("global_step_*")
        if (folder / "data.pt").is_file() and (folder / "actor").is_dir()
    }
    pointer = run.checkpoints / "latest_checkpointed_iteration.txt"
    step = run.checkpoint_step()
    if step not in complete:  # nothing vouches for them; torch writes zip files, whose end says that they are whole
        step = max((n for n, folder in complete.items() if zipfile.is_zipfile(folder / "data.pt")), default=0)
        if step:
            write_atomically(pointer, str(step))
        else:
            pointer.unlink(missing_ok=True)
    for folder in run.checkpoints.glob("global_step_*"):
        if int(folder.name.removeprefix("global_step_")) > step:
            shutil.rmtree(folder)


def restore_row(run: RunDir) -> None:
    """Append the row that a kill between a checkpoint and its step's row kept from metrics.jsonl; see stopping.py."""
    for attempt in reversed(run.attempts()):
        try:
            noted = (attempt.path / NOTED_ROW).read_text()
        except FileNotFoundError:
            continue
        step = json.loads(noted)["step"]
        rows = read_jsonl(attempt.metrics)[0]
        trained = {row["step"] for row in rows if "training/global_step" in row.get("data", {})}
        if step not in trained and step <= run.checkpoint_step():
            append_line(attempt.metrics, noted)
        return


def train(verl: Any, here: bool) -> None:
    """Run veRL's own entry on a Ray cluster of this process, and take the cluster down again.

    `here`: veRL's task runner, an actor otherwise, is this process.
    """
    import ray
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from experiments.task_runner import actor_class

    validate_config(verl, need_reference_policy(verl), need_critic(verl))
    try:
        run_ppo(verl, task_runner_class=actor_class(here))
    finally:
        processes.drop_shared_memory(Path(os.environ[processes.MARKER]))
        ray.shutdown()


def prepare(
    run: RunDir, config: dict[str, Any], frozen: str, steps: int, scratch: str
) -> tuple[Attempt, dict[str, str]]:
    """Make the next attempt's folder and record its start; return it and the variables of its environment.

    From here on this process prints into the attempt's log. What raises does so before, where one sees it.
    """
    attempt = run.new_attempt()
    variables = environment(config, run, attempt, scratch)
    os.environ.update(variables)
    os.environ.setdefault(processes.MARKER, str(run.path))  # started by hand, nobody has set it
    if RAY_ADDRESS in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray has it for a cluster that a driver starts itself
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # SLURM may give a second name to the same GPUs, which veRL refuses
        os.environ.pop("ROCR_VISIBLE_DEVICES", None)
    if config["trainer"]["device"] == "cpu":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray would count its devices against our logical ones
    repair_checkpoints(run)
    restore_row(run)
    where = {"pid": os.getpid(), "host": socket.gethostname(), "steps": steps, "config": frozen}
    if own_id():
        where["job"] = own_id()
    job = {**where, "environment": variables}
    write_atomically(attempt.path / "job.json", json.dumps(job, indent=1) + "\n")
    with open(attempt.log, "ab", buffering=0) as log:
        run.record("started", attempt=attempt.number, **where)
        if resumed := run.checkpoint_step():
            run.record("resumed", attempt=attempt.number, step=resumed)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(attempt.path)
    return attempt, variables


def execute(run: RunDir, steps: int | None = None, frozen: str = FIRST) -> int:
    """Execute one attempt of a run in this process; return its exit code (0 done, 1 failed, 130 interrupted).

    `frozen`: the file in the run's folder with the config of the launch that asked for the attempt.
    """
    config = relocated(run.load_config(frozen))
    steps = steps or int(config["trainer"]["total_training_steps"])
    with run.lock():
        scratch = ""
        try:
            scratch = str(processes.scratch_folder(processes.scratch_prefix(run.path)))
            attempt, variables = prepare(run, config, frozen, steps, scratch)
        except (UserError, OSError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            failure = of_an_error(error)
            try:
                run.record("failed", kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
            except OSError:  # the disk may be full: then the terminal is the only place
                print(f"error: {failure.cause}; {failure.remedy}", file=sys.stderr)
            return 1
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
        try:
            train(verl_config(config, attempt, steps, variables), bool(config["hardware"]["fast"]))
        except (KeyboardInterrupt, SystemExit):  # Ray turns a SIGTERM into sys.exit
            run.record("interrupted", attempt=attempt.number, step=run.checkpoint_step())
            return INTERRUPTED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            if warning.deadline(attempt.path) is not None:  # the kill it was warned of, reaching Ray first
                run.record("interrupted", attempt=attempt.number, step=run.checkpoint_step())
                return INTERRUPTED
            failure = classify(attempt.log)
            run.record("failed", attempt=attempt.number, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
            return 1
        else:
            if warning.deadline(attempt.path) is not None and run.last_step() < steps:
                run.record("interrupted", attempt=attempt.number, step=run.checkpoint_step())
                return INTERRUPTED
            run.record("finished", attempt=attempt.number, step=steps)
            return 0
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            shutil.rmtree(scratch, ignore_errors=True)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, once: a handler of SIGINT and SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute one attempt of a run that has been planned.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, help="train to this step (default: the frozen config's)")
    parser.add_argument("--config", default=FIRST, help="which frozen config in the folder (default: the first)")
    arguments = parser.parse_args()
    try:
        return execute(RunDir(arguments.run.absolute()), arguments.steps, arguments.config)
    except UserError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return UserError.exit_code


if __name__ == "__main__":
    sys.exit(main())
