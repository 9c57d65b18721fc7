"""hydra/launcher=local: on this machine, one run after the other, with a progress bar."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import fork_client, processes
from experiments.attempt import FORK_SOCKET
from experiments.plan import PlannedRun, disk_needed, freeze
from experiments.preflight import check_disk
from experiments.report import Progress, print_summary

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 20.0  # how long an interrupted attempt may take to go down by itself


def run_all(runs: Sequence[PlannedRun]) -> int:
    """Execute what has something left to do, one run after the other; return the command's exit code.

    Ctrl-C interrupts the run in progress, leaves it resumable and skips the rest (exit code 130).
    """
    todo = [run for run in runs if run.action not in ("skip", "wait")]
    if todo:
        check_disk(todo[0].run.path, sum(map(disk_needed, todo)))
    for run in todo:
        freeze(run)
        run.run.record("launched", launcher="local", steps=run.steps)
    codes = []
    with Progress(todo) as progress, fork_server(todo) as python:
        for run in todo:
            codes.append(execute(run, progress, python))
            if codes[-1] == 130:
                break
    print_summary(runs)
    return 130 if 130 in codes else int(any(codes))


@dataclass
class Child:
    """A running attempt."""

    process: subprocess.Popen

    def interrupt(self) -> None:
        """Ask for a clean end; insist after PATIENCE_SECONDS."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def fork_server(runs: Sequence[PlannedRun]) -> Iterator[list[str]]:
    """Start a fork server for the runs; yield the command that stands for `python`.

    Plain Python where no run wants one (hardware.fast=false), and on macOS, where a fork of a process that has loaded
    its frameworks is not safe.
    """
    if sys.platform != "linux" or not any(run.config["hardware"]["fast"] for run in runs):
        yield [sys.executable, "-P"]  # a folder of the working directory must not shadow a package
        return
    folder = Path(tempfile.mkdtemp(prefix=f"r1z-fork-{os.getpid()}-", dir="/tmp"))
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-m", "experiments.fork_server", str(address)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.environ[FORK_SOCKET] = str(address)
    try:
        while not address.exists():
            if server.poll() is not None:
                raise RuntimeError(
                    f"the fork server ended with {server.returncode}; set hardware.fast=false to do without"
                )
            time.sleep(0.02)
        yield [sys.executable, "-S", "-E", fork_client.__file__, str(address)]
    finally:
        del os.environ[FORK_SOCKET]
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def execute(run: PlannedRun, progress: Progress, python: Sequence[str]) -> int:
    """Run one attempt to its end while showing its progress; return its exit code."""
    processes.reap(run.run.path)  # a killed launcher's attempt may still hold the run's processes
    environment = {**os.environ, processes.MARKER: str(run.run.path)}
    child = Child(
        subprocess.Popen(
            [*python, "-m", "experiments.attempt", str(run.run.path), "--steps", str(run.steps)],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to the launcher, which passes it on once
        )
    )
    progress.begin(run)
    try:
        while child.process.poll() is None:
            progress.update()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        progress.note(f"{run.name}: interrupted, going down (it can be resumed)")
        child.interrupt()
    progress.update()
    processes.reap(run.run.path)
    code = child.process.returncode
    if run.run.state() == "killed":
        run.run.record(
            "failed", kind="killed", cause=f"the attempt ended with {code}", remedy="start again: it resumes"
        )
    progress.end()
    return code if code in (0, 130) else 1
