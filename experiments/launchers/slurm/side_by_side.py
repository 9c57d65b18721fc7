"""What a job with several runs executes: `python -m experiments.launchers.slurm.side_by_side FOLDER`.

Each run is executed by a process of its own, as in a job of its own (in_job.py), on its share of the job's GPUs and
cores. This process passes SLURM's signals on to all of them, ends a run that is cancelled while the others go on, and
records the end of a run whose process could not do so. If the warning cut runs short, it has the job queued again for
them. A run that has ended for good is not executed again when the job is.
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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.errors import UserError
from experiments.launchers.device_locks import DeviceLock
from experiments.launchers.notify import tell_from_job
from experiments.launchers.slurm.going_on import NextJob, go_on, got_further
from experiments.launchers.slurm.groups import Arm, asked_to_end, has, read_group
from experiments.launchers.slurm.in_job import add_options, exit_code_of
from experiments.launchers.slurm.queue import LOG_HEADER
from experiments.launchers.slurm.run_job import JOB_NAME, RunJob, own_run_job
from experiments.launchers.slurm.shares import Share, lock_devices, share_of
from experiments.launchers.slurm.signals import Signals
from experiments.processes import reaping
from experiments.store import warning
from experiments.store.events import Event, State
from experiments.store.failures import RESUMES, Failure, how, of_a_full_disk, of_an_error
from experiments.store.rundir import RunDir

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # how often to look whether a run is cancelled
PATIENCE_SECONDS = 20.0  # how long a run may take to end by itself


@dataclass
class Executed:
    """A run of this job that is executed, or was."""

    arm: Arm
    process: subprocess.Popen[bytes]
    start: int
    """The step of the run's newest checkpoint when this life of the job began."""
    locks: Sequence[DeviceLock] = ()
    cancelled: float | None = None
    """When its process was told that the run is cancelled, in monotonic seconds."""
    ended: float | None = None
    """When its process was seen to have ended, in monotonic seconds."""
    over: bool = False
    """Whether nothing of the run is left and its end is recorded."""

    @property
    def run(self) -> RunDir:
        """The run's folder."""
        return self.arm.run


@dataclass
class SideBySide:
    """This job: what it executes, and by which settings."""

    folder: Path
    own: RunJob
    warning_seconds: float
    retries: int
    signals: Signals
    executed: list[Executed] = field(default_factory=list)
    failed: bool = False
    """Whether a run failed before it could be executed."""

    def begin(self, arms: Sequence[Arm]) -> None:
        """Start the process of each run that this job is still to train, on the run's share of the job."""
        for place, arm in enumerate(arms):
            if not has(self.own, arm.run):
                print(f"{arm.run.path.name} has ended, or another job has it; this job does not execute it", flush=True)
                continue
            try:
                self._start(arm, share_of(place, len(arms), arm.run.load_config(arm.config)))
            except (UserError, OSError) as error:
                self._fail(arm.run, of_an_error(error))

    def _start(self, arm: Arm, share: Share) -> None:
        locks, notes = lock_devices(share.gpus, arm.run.path.name)
        command = [sys.executable, "-P", "-m", "experiments.launchers.slurm.in_job", str(arm.run.path)]
        command += ["--steps", str(arm.steps), "--config", arm.config, "--retries", str(self.retries)]
        command += ["--warning-seconds", str(self.warning_seconds), "--beside-others"]
        environment = {**os.environ, **share.variables()}
        with open(arm.run.path / "job.log", "ab", buffering=0) as log:
            log.write("".join(f"{note}\n" for note in notes).encode())
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.executed.append(Executed(arm, process, arm.run.checkpoint_step(), locks))

    def see_through(self) -> None:
        """Pass signals on until every run is over, or until the warning leaves no more time."""
        told, looked = False, 0.0
        while not all(one.over for one in self.executed) and not self._is_late():
            if self.signals.terminated and not told:
                told = True
                self._tell(signal.SIGTERM)
            if time.monotonic() > looked + LOOK_SECONDS:
                looked = time.monotonic()
                if self.signals.warned:  # again and again: a process that has just started ignores it
                    self._tell(signal.SIGUSR1)
                self._end_cancelled()
            for one in self.executed:
                if not one.over:
                    self._look_at(one)
            time.sleep(POLL_SECONDS)

    def _tell(self, number: signal.Signals) -> None:
        for one in self.executed:
            if one.process.poll() is None:
                one.process.send_signal(number)

    def _is_late(self) -> bool:
        """Return whether SLURM is about to end the job: then it must be queued again, whatever still goes on."""
        warned, reserve = self.signals.warned, warning.end_seconds(self.warning_seconds)
        return warned is not None and time.time() > warned + self.warning_seconds - reserve / 4

    def _end_cancelled(self) -> None:
        try:
            asked = asked_to_end(self.folder, self.own)
        except OSError:  # the file system may answer again
            return
        for one in self.executed:
            if one.run.id in asked and one.cancelled is None:
                one.cancelled = time.monotonic()
                if one.process.poll() is None:
                    one.process.send_signal(signal.SIGTERM)
                if one.over:  # the warning has cut it short, and it waits for the others
                    self._record_end(one)

    def _look_at(self, one: Executed) -> None:
        """Find out whether a run is over; end what does not end by itself."""
        now = time.monotonic()
        if one.process.poll() is None:
            if one.cancelled is not None and now > one.cancelled + PATIENCE_SECONDS:
                one.process.kill()
            return
        one.ended = one.ended or now
        if has(self.own, one.run) and one.run.is_locked():  # its process died, and the attempt ends itself
            if now < one.ended + PATIENCE_SECONDS and one.cancelled is None:
                return
            reaping.reap(one.run.path)
        one.over = True
        for lock in one.locks:
            lock.release()
        self._record_end(one)

    def _record_end(self, one: Executed) -> None:
        """Record the end of a run that was cancelled, or whose process could not record it."""
        ended = how(one.process.returncode)
        try:
            state = one.run.state()
            if one.cancelled is not None:
                if state not in (State.FINISHED, State.CANCELLED):
                    one.run.record(Event.CANCELLED)
            elif state != State.INTERRUPTED and self._is_open(one.run) and not self.signals.terminated:
                cause = f"the process of the job that takes care of the run {ended} and said nothing"
                killed = Failure("killed", cause, f"read {one.run.path / 'job.log'}, then {RESUMES}")
                self._fail(one.run, of_a_full_disk(one.run.path) or killed)
        except (UserError, OSError) as error:  # somebody deleted its folder: the others go on
            _say(f"{one.run.path.name}: its process {ended}, but: {error}")

    def _is_open(self, run: RunDir) -> bool:
        return has(self.own, run) and not run.is_locked()

    def _fail(self, run: RunDir, failure: Failure) -> None:
        self.failed = True
        try:
            run.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
            threading.Thread(target=tell_from_job, args=(run,)).start()  # it may take a minute, and signals may come
        except OSError:  # the disk may be full
            _say(f"{run.path.name} failed: {failure.kind}: {failure.cause}; {failure.remedy}")

    def cut_short(self) -> list[Executed]:
        """Return the runs that the warning cut short and that are to go on; record the failure of those that can't."""
        if not self.signals.warned or self.signals.terminated:
            return []
        short = [one for one in self.executed if has(self.own, one.run)]
        return [one for one in short if got_further(one.run, one.start)]

    def exit_code(self, without: Collection[RunDir] = ()) -> int:
        """Return an exit code of a run that is not 0, if there is one; runs that were cancelled do not count."""
        codes = [one.process.poll() for one in self.executed if one.cancelled is None and one.run not in without]
        return next((code if code > 0 else 128 - code for code in codes if code), int(self.failed))


def _say(text: str) -> None:
    """Print a line, unless the disk of the job's log is full: the other runs go on."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def execute(folder: Path, warning_seconds: float, requeue: bool, retries: int) -> int:
    """Execute the runs of this job, which is a task of the array of this folder; return the job's exit code.

    The arguments are those of in_job's execute.
    """
    own = own_run_job()
    assert own is not None, "only a job executes this"
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited by what is started now, until it listens itself
    print(f"{LOG_HEADER}{own.id}", flush=True)
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    job = SideBySide(folder, own, warning_seconds, retries, Signals())
    job.begin(read_group(folder, int(task or 0)))
    job.signals.listen()
    job.see_through()
    short, code = {one.run: one.arm.steps for one in job.cut_short()}, 0
    if short:
        next_job = NextJob(folder / "array.sh", f"{JOB_NAME}{folder.name}", None if task is None else int(task))
        code = go_on(short, next_job, requeue, job.signals)
    return code or job.exit_code(without=short)


def main() -> int:
    """Execute what the command line asks for; return the job's exit code."""
    parser = argparse.ArgumentParser(description="Execute several runs in a SLURM job, side by side.")
    parser.add_argument("folder", type=Path, help="the folder of the job's array")
    add_options(parser)
    arguments = parser.parse_args()
    folder, seconds = arguments.folder.absolute(), arguments.warning_seconds
    return exit_code_of(lambda: execute(folder, seconds, arguments.requeue, arguments.retries))


if __name__ == "__main__":
    sys.exit(main())
