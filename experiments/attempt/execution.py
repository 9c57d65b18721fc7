"""Execute one attempt of a run.

It reads a frozen config, holds the run's lock, sets the environment that veRL reads, starts a Ray of its own, calls
veRL's entry and records how the attempt ended. Whatever happens, no process, port, shared memory or temporary folder of
the attempt is left once the caller has then called `processes.reaping.reap`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.attempt.caches import tell_imported
from experiments.attempt.devices import check_gpus, check_memory
from experiments.attempt.environment import environment, verl_config
from experiments.attempt.flash_attention import replace_flash
from experiments.attempt.recovery import repair_checkpoints, restore_row
from experiments.attempt.watch import Watch
from experiments.errors import INTERRUPTED, UserError
from experiments.processes import ray_token, reaping
from experiments.processes.limits import check_machine
from experiments.store import warning
from experiments.store.code_copy import relocated
from experiments.store.events import Event
from experiments.store.failures import Failure, classify, of_an_error
from experiments.store.files import write_atomically
from experiments.store.frozen import FIRST
from experiments.store.rundir import Attempt, RunDir
from experiments.variables import EXECUTION, MARKER, RAY_ADDRESS, own_job


def train(verl: Any, here: bool, watch: Watch) -> None:
    """Run veRL's own entry on a Ray cluster of this process, and end the cluster. UserError without the GPUs it needs.

    `here`: veRL's task runner runs in this process, and not in a Ray actor. `watch`: says what died, if it raises.
    """
    import ray
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from experiments.attempt.task_runner import actor_class

    if verl.trainer.device != "cpu":
        check_gpus(int(verl.trainer.n_gpus_per_node))
    validate_config(verl, need_reference_policy(verl), need_critic(verl))
    try:
        run_ppo(verl, task_runner_class=actor_class(here))
    except Exception as error:
        watch.explain(error)  # it asks Ray, so before Ray goes down
        raise
    finally:
        reaping.drop_shared_memory(Path(os.environ[MARKER]))
        ray.shutdown()


def prepare(
    run: RunDir, config: dict[str, Any], frozen: str, steps: int, scratch: str
) -> tuple[Attempt, dict[str, str]]:
    """Make the next attempt's folder and record its start; return the attempt and the variables of its environment.

    When this returns, the process prints into the attempt's log. Whatever raises here does so before that, so that the
    user sees it.
    """
    attempt = run.new_attempt()
    variables = environment(config, run, attempt, scratch)
    os.environ.update(variables)
    tell_imported()
    os.environ.setdefault(MARKER, str(run.path))  # nobody has set it if the attempt was started by hand
    if RAY_ADDRESS in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # the mode that Ray has for a cluster that a driver starts itself
    else:  # Ray starts in this process
        check_machine()
        if not ray_token.is_chosen(os.environ):
            os.environ[ray_token.PATH] = str(Path(scratch) / ray_token.NAME)
            ray_token.write_token(Path(scratch) / ray_token.NAME)
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # SLURM may give a second name to the same GPUs, which veRL refuses
        os.environ.pop("ROCR_VISIBLE_DEVICES", None)
    if config["trainer"]["device"] == "cpu":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray would count its devices against our logical ones
    repair_checkpoints(run)
    restore_row(run)
    where = {"pid": os.getpid(), "host": socket.gethostname(), "steps": steps, "config": frozen, **own_job()}
    job = {**where, "environment": variables}
    write_atomically(attempt.path / "job.json", json.dumps(job, indent=1) + "\n")
    with open(attempt.log, "ab", buffering=0) as log:
        run.record(Event.STARTED, attempt=attempt.number, **where)
        if begins := resumed_from(run, config):
            run.record(Event.RESUMED, attempt=attempt.number, **begins)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(attempt.path)
    return attempt, variables


def own_scratch(run: Path) -> Path:
    """Make this attempt's temporary folder and return it; in a SLURM job its name tells of which execution it is."""
    if EXECUTION not in os.environ:
        return reaping.scratch_folder(reaping.scratch_prefix(run))
    folder = reaping.SCRATCH / reaping.of_execution(run, os.environ[EXECUTION])
    folder.mkdir(mode=0o700)
    return folder


def resumed_from(run: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    """Return the step that an attempt goes on from, and the checkpoint's folder if it is another run's; {} for none."""
    if step := run.checkpoint_step():
        return {"step": step}
    if config["trainer"]["resume_mode"] == "resume_path":
        path = str(config["trainer"]["resume_from_path"])
        return {"step": int(path.rpartition("global_step_")[2]), "path": path}
    return {}


def execute(run: RunDir, steps: int | None = None, frozen: str = FIRST) -> int:
    """Execute one attempt of a run in this process; return its exit code (0 done, 1 failed, 130 interrupted).

    `frozen`: the file in the run's folder with the config of the launch that asked for the attempt.
    """
    config = relocated(run.load_config(frozen))
    steps = steps or int(config["trainer"]["total_training_steps"])
    with run.lock():
        scratch = ""
        try:
            scratch = str(own_scratch(run.path))
            attempt, variables = prepare(run, config, frozen, steps, scratch)
        except (UserError, OSError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            failure = of_an_error(error)
            try:
                run.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
            except OSError:  # the disk may be full: then only the terminal is left
                print(f"error: {failure.cause}; {failure.remedy}", file=sys.stderr)
            return 1
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
        watch = Watch(run, attempt, config, lambda failure: record_failure(run, attempt, failure))
        try:
            verl = verl_config(config, run, attempt, steps, variables)
            if text := replace_flash(verl):
                run.record(Event.WARNED, step=run.last_step(), text=text)
            if config["trainer"]["device"] != "cpu":
                check_memory(config["hardware"].get("memory_gib"))
            train(verl, bool(config["hardware"]["fast"]), watch)
        except UserError as error:
            record_failure(run, attempt, of_an_error(error))
            return 1
        except (KeyboardInterrupt, SystemExit):  # Ray turns a SIGTERM into sys.exit
            if watch.verdict is not None:
                record_failure(run, attempt, watch.verdict)
                return 1
            run.record(Event.INTERRUPTED, attempt=attempt.number, step=run.checkpoint_step())
            return INTERRUPTED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            if warning.deadline(attempt.path) is not None:  # the end that SLURM warned of, and it reached Ray first
                run.record(Event.INTERRUPTED, attempt=attempt.number, step=run.checkpoint_step())
                return INTERRUPTED
            record_failure(run, attempt, watch.verdict or watch.of_memory(classify(attempt.log)))
            return 1
        else:
            if warning.deadline(attempt.path) is not None and run.last_step() < steps:
                run.record(Event.INTERRUPTED, attempt=attempt.number, step=run.checkpoint_step())
                return INTERRUPTED
            run.record(Event.FINISHED, attempt=attempt.number, step=steps)
            return 0
        finally:
            watch.over()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            shutil.rmtree(scratch, ignore_errors=True)


def record_failure(run: RunDir, attempt: Attempt, failure: Failure) -> None:
    """Record the failure of an attempt."""
    run.record(Event.FAILED, attempt=attempt.number, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once, and ignore later signals: a handler for SIGINT and SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
