"""What a job executes: `python -m experiments.launchers.slurm.in_job RUN --steps N`.

It runs one attempt, and another one if the first failed by what passes. It passes SLURM's warning on to the attempt,
and ends an attempt that does not stop in time. It records the end of an attempt that could not do so itself, and
removes what the attempt left behind. If the warning cut the run short, it has the job queued again. It ends with the
attempt's exit code, so that a failed run is FAILED in SLURM too; where the disk is too full to record anything, with
one of its own, since SLURM remembers that (settle.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.attempt.stall import Outside
from experiments.launchers.notify import tell_from_job
from experiments.launchers.retries import Retries
from experiments.launchers.slurm import queue
from experiments.launchers.slurm.commands import SlurmError
from experiments.launchers.slurm.former_life import given_away, is_restarted, outlives
from experiments.launchers.slurm.going_on import NextJob, go_on, got_further
from experiments.launchers.slurm.ray_cluster import SECRET, own_secret, ray_cluster
from experiments.launchers.slurm.run_job import JOB_NAME, own_run_job
from experiments.launchers.slurm.signals import Signals
from experiments.processes import reaping
from experiments.processes.cgroup import MemoryKills
from experiments.processes.ray_cpus import cpus_offered
from experiments.store import warning
from experiments.store.events import TERMINAL, Event, State
from experiments.store.failures import (
    DISK_FULL,
    DISK_FULL_EXIT,
    KILLED,
    MORE_MEMORY,
    OF_A_FULL_DISK,
    OUT_OF_MEMORY,
    Failure,
    classify,
    of_a_full_disk,
    of_memory,
    read_verdict,
)
from experiments.store.frozen import FIRST
from experiments.store.rundir import VERDICT, RunDir
from experiments.variables import (
    EXECUTION,
    FORK_SOCKET,
    MARKER,
    NOTIFY,
    RAY_ADDRESS,
    RAY_QUIET,
    SUPERVISOR,
    SWEEP,
    own_job,
    own_job_id,
)

POLL_SECONDS = 0.2


def execute(
    run: RunDir, steps: int, warning_seconds: float, requeue: bool | None, frozen: str = FIRST, retries: int = 0
) -> int:
    """Execute the run in this allocation; return the job's exit code.

    Args:
        steps: the step to train to.
        warning_seconds: how long before the time limit SLURM sends SIGUSR1.
        requeue: go on by requeueing this job (True) or by a new job (False); None: the process that started this one
            sees to it, since the job has other runs too.
        frozen: the frozen config in the run's folder that the attempts read.
        retries: how often the run is tried again in this job, if it fails by what passes.
    """
    signals = Signals()
    signals.listen()
    print(f"{queue.LOG_HEADER}{own_job_id()}", flush=True)
    owner = given_away(run)
    if owner:
        print(f"{run.path.name} has been given to {owner}; this job has nothing to do", flush=True)
        return 0
    if run.is_locked():
        if not is_restarted(run):
            print(f"{run.path.name} is running already; this job has nothing to do", flush=True)
            return 0
        if not outlives(run):
            print(f"{run.path.name} is still being executed by this job's former life; cancel that one", flush=True)
            return 1
    if run.state() == State.FINISHED and run.reached() >= steps:
        print(f"{run.path.name} has reached step {steps} already; this job has nothing to do", flush=True)
        return 0
    tries, start = Retries(retries), run.checkpoint_step()
    while True:
        code = _once(run, steps, warning_seconds, frozen, signals)
        if not _try_again(run, steps, tries, signals):
            break
    if requeue is not None and signals.warned and not signals.terminated and run.state() == State.INTERRUPTED:
        next_job = NextJob(run.path / "job.sh", f"{JOB_NAME}{run.id}")
        return go_on({run: steps}, next_job, requeue, signals) if got_further(run, start) else 1
    return code


def _try_again(run: RunDir, steps: int, tries: Retries, signals: Signals) -> bool:
    """Return whether the run, which has ended, is to be tried again in this job, after a pause."""
    if signals.terminated or signals.warned or run.is_locked() or run.state() != State.FAILED:
        return False
    if run.events()[-1].get("kind") == OUT_OF_MEMORY:  # a job's memory is the same at the next try
        return False
    again = tries.again(run)
    if again is None:
        return False
    print(again, flush=True)
    run.record(Event.SUBMITTED, launcher="slurm", steps=steps, cause="tried again in the same job", **own_job())
    while not tries.is_due(run) and not signals.terminated and not signals.warned:
        time.sleep(POLL_SECONDS)
    if signals.terminated or signals.warned:
        run.record(Event.INTERRUPTED, step=run.checkpoint_step(), cause="ended by SLURM")
        return False
    return True


def _once(run: RunDir, steps: int, warning_seconds: float, frozen: str, signals: Signals) -> int:
    """Execute one attempt; return the job's exit code."""
    reaping.drop_dead_scratch(run.path)  # a former life may have been killed
    made = len(run.attempts())
    execution, kills = uuid.uuid4().hex, MemoryKills()
    try:
        code = _attempt(run, steps, frozen, warning_seconds, signals, execution)
    except (RuntimeError, SlurmError, OSError):  # Ray did not come up on the nodes
        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    if len(run.attempts()) == made and not signals.warned:
        if not signals.terminated and not run.is_locked():
            own = own_run_job()
            if own is not None and queue.takes_away(own):  # where a node failed, SLURM's signal may come later
                run.record(Event.INTERRUPTED, step=run.checkpoint_step(), cause="ended by SLURM")
                return code
            failure = of_a_full_disk(run.path) or classify(run.path / "job.log")
            run.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
        return code
    # Of this execution only: SLURM may have started the job again already, even on this node.
    reaping.reap(run.path, execution=execution)
    reaping.drop_dead_scratch(run.path)
    if run.state() not in TERMINAL and not run.is_locked():
        _note(run, code, signals, kills.number())
    return code


def _attempt(run: RunDir, steps: int, frozen: str, warning_seconds: float, signals: Signals, execution: str) -> int:
    """Run the attempt to its end and pass signals on to it; return its exit code, 128 + n for signal n."""
    # What belongs to a launcher on the submitting machine, and what only this process needs to know.
    left_out = (FORK_SOCKET, RAY_ADDRESS, "RAY_ADDRESS", NOTIFY, SWEEP, os.environ.get(NOTIFY))
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment[EXECUTION] = execution
    arguments = [str(run.path), "--steps", str(steps), "--config", frozen]
    config = run.load_config(frozen)
    with _ray(run, config, environment) as variables:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "experiments.attempt", *arguments],
            env={**environment, **variables, MARKER: str(run.path), SUPERVISOR: str(os.getpid())},
            stdin=subprocess.DEVNULL,
        )
        return _see_through(child, run, warning_seconds, signals, Outside(run, config))


@contextlib.contextmanager
def _ray(run: RunDir, config: Mapping[str, Any], environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Start Ray on the allocation's nodes if the run needs several; yield the variables that tell the attempt of it."""
    nodes = int(config["hardware"]["nodes"])
    if nodes == 1:
        yield {}  # the attempt starts its own Ray
        return
    cpus = cpus_offered(config, environment.get("SLURM_CPUS_PER_TASK"))
    marked = {**environment, **RAY_QUIET, **own_secret(), MARKER: str(run.path)}
    if config["trainer"]["device"] == "cpu":
        marked |= {"OMP_NUM_THREADS": "1"}
    scratch = reaping.SCRATCH / f"{reaping.of_execution(run.path, environment[EXECUTION])}-ray"
    with ray_cluster(nodes, cpus, int(config["hardware"]["gpus_per_node"]), scratch, marked) as address:
        yield {RAY_ADDRESS: address, **{name: marked[name] for name in SECRET}}


def _see_through(
    child: subprocess.Popen, run: RunDir, warning_seconds: float, signals: Signals, outside: Outside
) -> int:
    """Pass signals on to the attempt until it ends; return its exit code, 128 + n for signal n.

    An attempt that was warned is ended before SLURM would end the job: a job that the time limit ended can't be queued
    again.
    """
    made = len(run.attempts())
    reserve = warning.end_seconds(warning_seconds)
    deadline = None
    asked = 0.0  # when the attempt was told to end, in monotonic seconds; 0: not yet
    while child.poll() is None:
        if outside.stalled():
            child.kill()
        if signals.warned and deadline is None:
            attempts = run.attempts()
            deadline = signals.warned + warning_seconds - reserve
            if len(attempts) > made:
                warning.warn(attempts[-1].path, deadline)
            else:
                deadline = signals.warned  # nothing to save
        late = deadline is not None and time.time() >= deadline
        if (late or signals.terminated) and not asked:
            asked = time.monotonic()
            child.terminate()
        elif late and asked and time.monotonic() > asked + reserve / 2:
            child.kill()
        time.sleep(POLL_SECONDS)
    code = child.returncode
    return code if code >= 0 else 128 - code


def _note(run: RunDir, code: int, signals: Signals, kills: int) -> None:
    """Record the end of an attempt that died without recording it itself.

    `kills`: how many processes the kernel killed for memory meanwhile.
    """
    if signals.terminated or signals.warned:
        run.record(Event.INTERRUPTED, step=run.checkpoint_step(), cause="ended by SLURM")
        return
    if code - 128 in signal.valid_signals():
        cause = f"the attempt was ended by {signal.Signals(code - 128).name}"
    else:
        cause = f"the attempt ended with {code} and said nothing"
    attempts = run.attempts()
    if attempts and (verdict := read_verdict(attempts[-1].path / VERDICT)) is not None:
        run.record(Event.FAILED, kind=verdict.kind, cause=verdict.cause, remedy=verdict.remedy)
        return
    log = attempts[-1].log if attempts else run.path / "job.log"
    failure = of_a_full_disk(run.path) or classify(log)
    if failure.kind == OUT_OF_MEMORY:
        failure = Failure(OUT_OF_MEMORY, failure.cause, MORE_MEMORY)
    elif failure.kind != DISK_FULL:
        silent = Failure(KILLED, cause, f"read the end of {log}, then launch it again")
        failure = of_memory(silent, kills, in_job=True)
    run.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, as SLURM would: the attempt sees that, and ends itself."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def exit_code_of(work: Callable[[], int]) -> int:
    """Return the exit code of what a job does; DISK_FULL_EXIT where the disk is too full to record its end."""
    try:
        return work()
    except OSError as error:
        if error.errno not in OF_A_FULL_DISK:
            raise
        # What is still to be printed has no room either; the exit code would then be Python's own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DISK_FULL_EXIT


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a job has for each of its runs."""
    parser.add_argument("--warning-seconds", type=float, default=120.0, help="how long before the end SIGUSR1 comes")
    parser.add_argument("--no-requeue", dest="requeue", action="store_false", help="go on in a new job")
    parser.add_argument("--retries", type=int, default=0, help="how often a run is tried again (default: never)")


def main() -> int:
    """Execute what the command line asks for; return the job's exit code."""
    parser = argparse.ArgumentParser(description="Execute one attempt of a run in a SLURM job.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, required=True, help="train to this step")
    parser.add_argument("--config", default=FIRST, help="which frozen config in the folder (default: the first)")
    parser.add_argument("--beside-others", action="store_true", help="the parent process has other runs in this job")
    add_options(parser)
    arguments = parser.parse_args()
    run, frozen = RunDir(arguments.run.absolute()), arguments.config
    if arguments.beside_others:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requeue = None if arguments.beside_others else arguments.requeue
    seconds, retries = arguments.warning_seconds, arguments.retries
    code = exit_code_of(lambda: execute(run, arguments.steps, seconds, requeue, frozen, retries))
    tell_from_job(run)
    return code


if __name__ == "__main__":
    sys.exit(main())
