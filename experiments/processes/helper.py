"""A process that a launch keeps beside its runs, with a temporary folder of its own.

The helper removes the folder when it ends, and the launcher removes it after that. If both are killed, the folder is
removed when the next helper is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.processes import endings, reaping
from experiments.store.failures import Failure, classify, how, of_a_full_disk
from experiments.store.files import write_atomically
from experiments.variables import MARKER

NAMES = {"fork": "fork server", "ray": "Ray head"}
PID = "pid"  # in a helper's folder: its process id
START_SECONDS = 300.0  # how long a helper may take to be ready: it imports gigabytes, maybe from a slow disk
PATIENCE_SECONDS = 5.0


class HelperEnded(Exception):
    """A helper did not come up; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


class Helper:
    """A process of the launch that is ready when a file appears in its folder."""

    def __init__(self, kind: str, sign: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start `python *arguments`; `sign` is the file's name.

        "{folder}" in the arguments and in the values of the variables stands for the helper's folder.
        """
        self.folder, self.lock = _locked_folder(f"r1z-{kind}-{os.getpid()}-")
        self.kind, self.sign = kind, self.folder / sign
        self.deadline = time.monotonic() + START_SECONDS
        self.log = self.folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-W",
                    "ignore",
                    *(part.replace("{folder}", str(self.folder)) for part in arguments),
                ],
                env={
                    **os.environ,
                    **{name: value.replace("{folder}", str(self.folder)) for name, value in variables.items()},
                    MARKER: str(self.folder),
                },
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        write_atomically(self.folder / PID, str(self.process.pid))

    def wait(self) -> Path:
        """Return the file when it is there; HelperEnded if the process has ended."""
        while not self.is_ready():
            time.sleep(0.02)
        return self.sign

    def is_ready(self) -> bool:
        """Return whether the file is there; HelperEnded if the process has ended, or is late by START_SECONDS."""
        if self.sign.exists() and self.process.poll() is None:
            return True
        is_late = self.process.poll() is None and time.monotonic() > self.deadline
        if is_late:
            self.process.kill()
            self.process.wait()
        elif self.process.poll() is None:
            return False
        how_it_ended = f"it was not ready after {START_SECONDS:g} s" if is_late else self.ending()
        if (full := of_a_full_disk(self.folder.parent)) is not None:  # then the log may lack the cause
            raise HelperEnded(full)
        failure = classify(self.log)
        remedy = "start again, or set hardware.fast=false to do without"
        raise HelperEnded(Failure(failure.kind, f"{how_it_ended}: {failure.cause}", remedy))

    def ending(self) -> str | None:
        """Return in words what of it ended first: one of Ray's daemons, or the process itself; None if all live."""
        for pid, (name, code) in endings.noted(self.folder).items():
            if name in endings.DAEMONS:  # the process is about to end, too
                return f"Ray's {name} (process {pid}) {how(code)}"
        if self.process.poll() is None:
            return None
        return f"the {NAMES[self.kind]} of the launch (process {self.process.pid}) {how(self.process.returncode)}"

    def close(self) -> None:
        """End the process and all that it started; then remove what killed launchers have left.

        The process has PATIENCE_SECONDS to end by itself.
        """
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_SECONDS)
        self.process.kill()
        self.process.wait()
        reaping.reap(self.folder)
        reaping.drop_folder(self.folder)
        os.close(self.lock)
        _drop_abandoned()


def _drop_abandoned() -> None:
    """Remove the folders of helpers whose launcher was killed, and end the processes that belong to them."""
    for kind in NAMES:
        for folder in reaping.SCRATCH.glob(f"r1z-{kind}-*-*"):
            with contextlib.suppress(OSError):  # another user's, or its launcher lives
                lock = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    reaping.reap(folder)
                    reaping.drop_folder(folder)
                finally:
                    os.close(lock)


def _locked_folder(prefix: str) -> tuple[Path, int]:
    """Return a new temporary folder and an open descriptor of it, which locks the folder until this process ends.

    The lock shows that the launcher lives. Its process id could not: another process may have that id later, or another
    container may see the folder.
    """
    while True:
        folder = reaping.scratch_folder(prefix)
        with contextlib.suppress(FileNotFoundError):  # another launch found it not yet locked, and removed it
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)
