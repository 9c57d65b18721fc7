"""One attempt of a run on this machine, from its start to its end.

Nothing here waits, so several can be under way; only where an attempt ended without a word, its cause is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.attempt.stall import Outside
from experiments.errors import INTERRUPTED, UserError
from experiments.launchers.machine import VISIBLE
from experiments.launchers.places import Place
from experiments.launchers.progress import Row
from experiments.planning.plan import PlannedRun, attempt_arguments
from experiments.processes import reaping
from experiments.processes.cgroup import MemoryKills
from experiments.processes.helper import HelperEnded
from experiments.processes.standby import Standby
from experiments.store.events import Event, State
from experiments.store.failures import Failure, of_a_silent_end, of_an_error, of_memory
from experiments.store.rundir import VERDICT, AlreadyRunning, RunDir
from experiments.variables import CORES, MARKER

NOTED_SECONDS = 2.0  # how much later than an attempt's end the death of Ray's daemon may be known


def reap(run: RunDir) -> None:
    """End the processes that an attempt left behind. AlreadyRunning, and nothing is ended, if another attempt lives."""
    with run.lock():
        reaping.reap(run.path)


@dataclass
class Turn:
    """An attempt of a run at a place."""

    run: PlannedRun
    place: Place
    cores: int
    """How many CPU cores the run has for itself."""
    code: Path
    standby: Standby
    row: Row
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    process: subprocess.Popen[bytes] | None = None
    code_at_end: int | None = None
    """The exit code; None while the attempt is under way."""
    interrupted: bool = False
    outside: Outside | None = None
    """Watches the attempt for a stall that it can't end by itself."""
    kills: MemoryKills = field(default_factory=MemoryKills)
    _events: int = 0

    @classmethod
    def begin(cls, run: PlannedRun, place: Place, cores: int, code: Path, standby: Standby, row: Row) -> Turn | str:
        """Return the turn of a run, or in words why it has none: others had it done, are at it, or cancelled it."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(run.folder.launching())
                now = replace(run, state=run.folder.state(), reached=run.folder.reached())
                if now.action in ("skip", "wait") or now.state == State.CANCELLED:
                    return f"{now.state} in the meantime"
                reap(run.folder)
            except AlreadyRunning:
                return "running already, started by another command"
            row.begin(now)
            return cls(now, place, cores, code, standby, row, held.pop_all())
        raise AssertionError("not reached")

    def poll(self) -> int | None:
        """Go on with the attempt; return its exit code once it has ended, else None."""
        if self.code_at_end is None:
            try:
                if _is_gone(self.run.folder):
                    raise FileNotFoundError(errno.ENOENT, "somebody deleted it", str(self.run.folder.path))
                self._go_on()
            except (OSError, UserError) as error:  # the other runs go on
                self._lose(error)
        return self.code_at_end

    def _go_on(self) -> None:
        if self.process is None:
            self._start()
        elif self.process.poll() is None:
            self.row.update()
            if self.outside is not None and self.outside.stalled():
                self.process.kill()
        else:
            self._finish(self.process.returncode)

    def _lose(self, error: OSError | UserError) -> None:
        """End the turn of a run whose folder, or whose process, can't be used any more."""
        self.kill()
        reaping.reap(self.run.folder.path)
        record_failure(self.run, of_an_error(error), self.row)
        self._end(INTERRUPTED if self.interrupted else 1)

    def _start(self) -> None:
        """Start the process if what it needs is ready."""
        try:
            if not self.standby.is_ready(self.run.config, self.place.number):
                return
            python, variables = self.standby.python(self.run.config, self.code, self.place.number)
        except HelperEnded as ended:
            self.fail(ended.failure)
            return
        own = {MARKER: str(self.run.folder.path), CORES: str(self.cores)}
        if self.place.gpus:
            own[VISIBLE] = ",".join(self.place.gpus)
        self._events = len(self.run.folder.events())
        self.process = subprocess.Popen(
            [*python, "-m", "experiments.attempt", *attempt_arguments(self.run)],
            env={**os.environ, **variables, **own},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the launcher, which passes it on once
        )
        self.outside = Outside(self.run.folder, self.run.config)

    def interrupt(self) -> None:
        """Ask for a clean end."""
        self.interrupted = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        elif self.process is None:
            self._end(INTERRUPTED)

    def kill(self) -> None:
        """End the attempt at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def fail(self, failure: Failure) -> None:
        """Record a failure before the attempt could start."""
        record_failure(self.run, failure, self.row)
        self._end(1)

    def _finish(self, exit_code: int) -> None:
        """Clean up after the process, and record how it ended if it could not do so itself."""
        with contextlib.suppress(AlreadyRunning):
            reap(self.run.folder)
        self.row.update()
        folder, failure = self.run.folder, None
        silent = len(folder.events()) == self._events and not folder.is_locked()  # then its output is on the terminal
        if folder.state() == State.KILLED:
            attempt = folder.attempts()[-1]
            verdict = attempt.path / VERDICT
            ending = self._ending(patience=0.0 if exit_code < 0 or verdict.exists() else NOTED_SECONDS)
            failure = of_a_silent_end(folder.path, exit_code, verdict, attempt.log, ending)
            failure = of_memory(failure, self.kills.number())
        elif exit_code and silent:
            failure = Failure("error", f"the attempt ended with {exit_code} before it started", "read what it printed")
        if failure is not None:
            record_failure(self.run, failure, self.row)
        if exit_code:
            self.standby.drop_cluster(self.place.number)
        self._end(INTERRUPTED if self.interrupted else int(exit_code != 0))

    def _ending(self, patience: float) -> str | None:
        """Return in words which process of the launch ended by itself; look for so many seconds.

        Ray ends a process whose raylet died at once and silently, which may be before the Ray head has noted the death.
        """
        deadline = time.monotonic() + patience
        while (words := self.standby.ending(self.place.number)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return words

    def _end(self, code: int) -> None:
        self.code_at_end = code
        self.row.end()
        self.held.close()


def _is_gone(run: RunDir) -> bool:
    """Return whether the folder is not there. One that can't be asked for may come back."""
    try:
        run.path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def record_failure(run: PlannedRun, failure: Failure, row: Row) -> None:
    """Record a failure; if it can't be recorded, print it."""
    try:
        run.folder.record(Event.FAILED, kind=failure.kind, cause=failure.cause, remedy=failure.remedy)
    except OSError:  # the disk may be full: the run's state is then "killed", and it can be resumed
        row.note(f"{run.name} failed: {failure.kind}: {failure.cause}\n  do: {failure.remedy}")
