"""hydra/launcher=local: execute runs on this machine, one after the other, with a progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.attempt.execution import interrupt
from experiments.errors import INTERRUPTED, UserError
from experiments.launchers.progress import Progress
from experiments.launchers.summary import print_figures, print_summary
from experiments.planning.content import code_version
from experiments.planning.cost import check_disk, disk_needed
from experiments.planning.plan import PlannedRun, attempt_arguments, freeze, launched
from experiments.processes import reaping
from experiments.processes.helper import HelperEnded
from experiments.processes.standby import Standby
from experiments.store.code_copy import snapshot
from experiments.store.events import Event, State
from experiments.store.failures import DISK_FULL, RESUMES, Failure, of_a_silent_end
from experiments.store.rundir import AlreadyRunning, RunDir
from experiments.variables import MARKER

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 20.0  # how long an interrupted attempt may take to end by itself


def run_all(runs: Sequence[PlannedRun], standby: Standby, code: Path | None = None) -> int:
    """Execute the runs that are not done, one after the other; return the command's exit code.

    `code`: the copy of the code to execute (see store/code_copy.py); None: copy the code as it is now.

    Ctrl-C interrupts the run in progress, which can be resumed, and skips the rest (exit code 130). A run that another
    launcher has started, or that was cancelled while it waited for its turn, is passed over.
    """
    signal.signal(signal.SIGINT, interrupt)
    todo = [run for run in runs if run.action not in ("skip", "wait")]
    codes: list[int] = []
    if todo:
        check_disk(todo[0].folder.path, sum(disk_needed(run.config) for run in todo))
        configs = [run.config for run in todo]
        code = code or snapshot(todo[0].folder.path.parent, configs, code_version())
        todo = [freeze(run) for run in todo]
        for run in todo:
            run.folder.record(Event.LAUNCHED, **launched("local", run, code))
        try:
            standby.prepare(configs)
            with Progress(todo) as progress:
                codes = take_turns(todo, code, progress, standby)
        finally:
            standby.close()
    print_summary(runs)
    if todo:
        print_figures(runs)
    return INTERRUPTED if INTERRUPTED in codes else int(any(codes))


def take_turns(runs: Sequence[PlannedRun], code: Path, progress: Progress, standby: Standby) -> list[int]:
    """Execute the runs in order until an interrupt; return the exit codes of the executed runs."""
    codes: list[int] = []
    for run in runs:
        if full := _full_disk(run):
            progress.begin(run)
            record_failure(run, full, progress)
            progress.end()
            codes.append(1)
            continue
        try:
            with run.folder.launching():
                now = replace(run, state=run.folder.state(), reached=run.folder.reached())
                if now.action in ("skip", "wait") or now.state == State.CANCELLED:
                    progress.pass_over(run, f"{now.state} in the meantime")
                    continue
                reap(run.folder)
                codes.append(execute(now, code, progress, standby))
                if codes[-1]:
                    standby.drop_cluster()
        except AlreadyRunning:
            progress.pass_over(run, "running already, started by another command")
        if INTERRUPTED in codes:
            break
    return codes


def _full_disk(run: PlannedRun) -> Failure | None:
    """Return the failure of a run if the disk has no room for it: the runs before it may have filled the disk."""
    try:
        check_disk(run.folder.path, disk_needed(run.config))
    except UserError as error:
        return Failure(DISK_FULL, str(error), f"make room and {RESUMES}")
    return None


def reap(run: RunDir) -> None:
    """End the processes that an attempt left behind. AlreadyRunning, and nothing is ended, if another attempt lives."""
    with run.lock():
        reaping.reap(run.path)


@dataclass
class Child:
    """A running attempt."""

    process: subprocess.Popen

    def interrupt(self) -> None:
        """Ask for a clean end; kill after PATIENCE_SECONDS."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def execute(run: PlannedRun, code: Path, progress: Progress, standby: Standby) -> int:
    """Run one attempt to its end while showing its progress; return its exit code."""
    progress.begin(run)
    try:
        python, variables = standby.python(run.config, code)
    except HelperEnded as ended:
        record_failure(run, ended.failure, progress)
        progress.end()
        return 1
    environment = {**os.environ, **variables, MARKER: str(run.folder.path)}
    events = len(run.folder.events())
    child = Child(
        subprocess.Popen(
            [*python, "-m", "experiments.attempt", *attempt_arguments(run)],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the launcher, which passes it on once
        )
    )
    interrupted = False
    try:
        while child.process.poll() is None:
            progress.update()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        interrupted = True
        progress.note(f"{run.name}: interrupted, going down (it can be resumed)")
        child.interrupt()
    finally:
        with contextlib.suppress(AlreadyRunning):
            reap(run.folder)
    progress.update()
    exit_code = child.process.returncode
    silent = len(run.folder.events()) == events and not run.folder.is_locked()  # then its output is on the terminal
    failure = None
    if run.folder.state() == State.KILLED:
        failure = of_a_silent_end(run.folder.path, exit_code)
    elif exit_code and silent:
        failure = Failure("error", f"the attempt ended with {exit_code} before it started", "read what it printed")
    if failure is not None:
        record_failure(run, failure, progress)
    progress.end()
    return INTERRUPTED if interrupted else int(exit_code != 0)


def record_failure(run: PlannedRun, failure: Failure, progress: Progress) -> None:
    """Record a failure; if it can't be recorded, print it."""
    try:
        run.folder.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
    except OSError:  # the disk may be full: the run's state is then "killed", and it can be resumed
        progress.note(f"{run.name} failed: {failure.kind}: {failure.cause}\n  do: {failure.remedy}")
